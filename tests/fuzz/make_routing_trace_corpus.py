#!/usr/bin/env python3
"""Writes corpus/routing_trace: small files of src/sim/routing_trace.h, right and wrong."""

import pathlib
import struct

FOLDER = pathlib.Path(__file__).parent / "corpus" / "routing_trace"


def file(layers, experts, top_k, steps, ids, version=1, num_steps=None, num_tokens=None):
    """num_steps, num_tokens: other than those of `steps` they lie."""
    body = b"FIDROUTE" + struct.pack("<4I2Q", version, layers, experts, top_k, len(steps) if num_steps is None else num_steps,
                                     sum(steps) if num_tokens is None else num_tokens)
    body += struct.pack(f"<{len(steps)}I", *steps) + struct.pack(f"<{len(ids)}H", *ids)
    checksum = 14695981039346656037
    for byte in body:
        checksum = (checksum ^ byte) * 1099511628211 % 2**64
    return body + struct.pack("<Q", checksum)


VALID = file(2, 5, 2, [2, 1], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 2])
FILES = {
    "valid": VALID,
    "valid_no_steps": file(1, 1, 1, [], []),
    "valid_largest_id": file(1, 65536, 1, [1], [65535]),
    "bad_empty": b"",
    "bad_truncated": VALID[:-1],
    "bad_version": file(1, 1, 1, [], [], version=2),
    "bad_top_k": file(1, 2, 3, [1], [0, 1, 0]),
    "bad_id": file(1, 2, 1, [1], [2]),
    "bad_twice": file(1, 2, 2, [1], [1, 1]),
    "bad_empty_step": file(1, 2, 1, [1, 0], [1]),
    "bad_sum": file(1, 2, 1, [1, 1], [1, 0, 1], num_tokens=3),
    "bad_overflow": file(65536, 65536, 65536, [], [], num_tokens=2**63),
    "bad_huge": file(1, 1, 1, [], [], num_steps=2**40, num_tokens=2**40),
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, content in FILES.items():
        (FOLDER / f"{name}.trace").write_bytes(content)
