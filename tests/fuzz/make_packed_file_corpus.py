#!/usr/bin/env python3
"""Writes corpus/packed_file: small valid headers, and one for each way in which a header can be wrong."""

import pathlib
import struct

FOLDER = pathlib.Path(__file__).parent / "corpus" / "packed_file"
MASK = 2**64 - 1
PAGE = 4096


def step(total, word):
    product = ((total ^ word) * 0x9E3779B97F4A7C15) & MASK
    return product ^ (product >> 32)


def checksum(data):
    """base/checksum.h."""
    lanes = list(range(1, 9))
    whole = len(data) // 64 * 64
    for i, (word,) in enumerate(struct.iter_unpack("<Q", data[:whole])):
        lanes[i % 8] = step(lanes[i % 8], word)
    total = len(data)
    for lane in lanes:
        total = step(total, lane)
    for begin in range(whole, len(data), 8):
        total = step(total, int.from_bytes(data[begin : begin + 8], "little"))
    return total


def up(value, unit):
    return (value + unit - 1) // unit * unit


def header(layers=2, experts=3, identity=b"made up\n", magic=b"FIDEXPRT", version=1, weight_format=2, hidden=64,
           intermediate=100, slice_neurons=64, stride=None, identity_bytes=None, header_bytes=None, lie=0):
    """A BF16 model unless told otherwise; `lie` is added to the checksum."""
    neurons = up(intermediate, max(slice_neurons, 1))
    size = up(80 + up(len(identity), 8) + 8 * layers * experts + 8, 1)
    if stride is None:
        stride = up(3 * 2 * neurons * hidden, PAGE) & MASK
    body = magic + struct.pack("<IIQQQQIIQQQ", version, weight_format, size if header_bytes is None else header_bytes,
                               hidden, intermediate, slice_neurons, layers, experts, stride, up(size, PAGE),
                               len(identity) if identity_bytes is None else identity_bytes)
    body += identity.ljust(up(len(identity), 8), b"\0")
    body += struct.pack(f"<{layers * experts}Q", *range(layers * experts))
    return body + struct.pack("<Q", (checksum(body) + lie) & MASK)


FILES = {
    "valid": header(),
    "valid_no_identity": header(identity=b""),
    "valid_int4": header(weight_format=4, hidden=32, intermediate=64, stride=up(36 * 32 * 3, PAGE)),
    "bad_empty": b"",
    "bad_magic": header(magic=b"FIDEXPRX"),
    "bad_version": header(version=2),
    "bad_format": header(weight_format=5),
    "bad_hidden": header(hidden=0),
    "bad_hidden_huge": header(hidden=2**63),
    "bad_slice": header(slice_neurons=65),
    "bad_no_slice": header(slice_neurons=0),
    "bad_no_layers": header(layers=0),
    "bad_stride": header(stride=PAGE),
    "bad_identity_bytes": header(identity_bytes=2**64 - 1),
    "bad_identity_padding": header(identity=b"made up\n1234567", identity_bytes=9),
    "bad_header_bytes": header(header_bytes=2**63),
    "bad_header_bytes_small": header(header_bytes=88),
    "bad_checksum": header(lie=1),
    "bad_truncated": header()[:-1],
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, content in FILES.items():
        (FOLDER / f"{name}.packed").write_bytes(content)
