#!/usr/bin/env python3
"""Writes corpus/safetensors: small valid files, and one file for each way in which a file can be wrong."""

import json
import pathlib
import struct

FOLDER = pathlib.Path(__file__).parent / "corpus" / "safetensors"


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(header, data_bytes, length=None):
    """`header` as bytes, or as an object; `length` other than its own lies about it."""
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":")).encode()
    data = bytes(i % 251 for i in range(data_bytes))
    return struct.pack("<Q", len(header) if length is None else length) + header + data


ONE = tensor("U8", [1], 0, 1)
TWO = {"a": tensor("BF16", [2, 3], 0, 12), "b": tensor("F32", [2], 12, 20)}
TYPES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
         "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}


def every_type():
    header, end = {}, 0
    for name, size in TYPES.items():
        header[name.lower()] = tensor(name, [1], end, end + size)
        end += size
    return file(header, end)


FILES = {
    "valid_empty": file({}, 0),
    "valid_two": file(TWO, 20),
    "valid_metadata": file({"__metadata__": {"format": "pt"}, **TWO}, 20),
    "valid_every_type": every_type(),
    "valid_scalar": file({"s": tensor("F32", [], 0, 4)}, 4),
    "valid_zero_size": file({"z": tensor("F32", [0, 3], 0, 0), "t": ONE, "y": tensor("I8", [0], 1, 1)}, 1),
    "valid_padded": file(b'{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}       ', 1),
    "valid_escapes": file(b'{"\\u0061\\n\\ud83d\\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "valid_unknown_field": file({"t": {**ONE, "note": [{"deep": None}]}}, 1),
    "bad_no_bytes": b"",
    "bad_seven_bytes": b"\x02\0\0\0\0\0\0",
    "bad_length_zero": file(b"{}", 0, length=0),
    "bad_length_past_end": file(b"{}", 0, length=3),
    "bad_length_huge": file(b"{}", 0, length=2**40),
    "bad_length_max": file(b"{}", 0, length=2**64 - 1),
    "bad_truncated_header": file(TWO, 20)[:40],
    "bad_truncated_data": file(TWO, 20)[:-1],
    "bad_array": file(b"[]", 0),
    "bad_leading_space": file(b" {}", 0),
    "bad_trailing_text": file(b"{} {}", 0),
    "bad_trailing_nul": file(b"{}\0\0", 0),
    "bad_utf8": file(b'{"\xc3\x28":1}', 0),
    "bad_nesting": file(b'{"a":' + b"[" * 200, 0),
    "bad_big_number": file(b'{"t":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}', 1),
    "bad_duplicate": file(b'{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{}}', 0),
    "bad_metadata": file({"__metadata__": {"a": 1}}, 0),
    "bad_dtype": file({"t": tensor("Q4_K", [1], 0, 1)}, 1),
    "bad_missing_shape": file({"t": {"dtype": "U8", "data_offsets": [0, 1]}}, 1),
    "bad_negative": file({"t": tensor("U8", [-1], 0, 1)}, 1),
    "bad_float_shape": file({"t": tensor("U8", [1.5], 0, 1)}, 1),
    "bad_overflow": file({"t": tensor("U8", [2**32, 2**32], 0, 0)}, 0),
    "bad_dimension": file({"t": tensor("U8", [2**63], 0, 0)}, 0),
    "bad_overlap": file({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 3, 7)}, 7),
    "bad_hole": file({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [3], 5, 8)}, 8),
    "bad_leftover": file({"t": ONE}, 2),
    "bad_past_end": file({"t": tensor("U8", [9], 0, 9)}, 1),
    "bad_backwards": file({"t": tensor("U8", [1], 1, 0)}, 1),
    "bad_size": file({"t": tensor("F32", [2], 0, 7)}, 7),
    "bad_three_offsets": file({"t": {**ONE, "data_offsets": [0, 1, 1]}}, 1),
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (FOLDER / f"{name}.safetensors").write_bytes(content)
    print(f"{FOLDER}: {len(FILES)} files")
