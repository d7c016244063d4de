#!/usr/bin/env python3
"""Writes corpus/popularity and corpus/calibration: small sealed JSON files (src/base/sealed_json.h), right and wrong."""

import copy
import json
import pathlib

FOLDER = pathlib.Path(__file__).parent / "corpus"


def sealed(kind, content, version=1):
    """The members and a checksum: FNV-1a of them without white space, names in order."""
    members = {**content, "kind": kind, "version": version}
    checksum = 14695981039346656037
    for byte in json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode():
        checksum = (checksum ^ byte) * 1099511628211 % 2**64
    return json.dumps({**members, "checksum": f"{checksum:016x}"}).encode()


def changed(content, *path_and_value):
    """A copy with the member at the path replaced."""
    copied = copy.deepcopy(content)
    *path, last, value = path_and_value
    place = copied
    for name in path:
        place = place[name]
    place[last] = value
    return copied


POPULARITY = {"family": "mixtral", "layers": 2, "experts": 3, "top_k": 2, "text": "tales.txt", "tokens": 5,
              "counts": [[5, 3, 2], [0, 5, 5]]}
ENTRY = {
    "hardware": {"cpu": "EPYC", "threads": 2, "isa": "avx2", "kernels": 1, "ram_gib": 24, "device": "emulated",
                 "device_memory_gib": 0},
    "geometry": {"hidden": 64, "slice_neurons": 128, "format": "int4", "activations": "int8"},
    "read_gbps": 40.5,
    "peak_gops": 812.25,
    "cost": {"cpu": [[1.0, 0.25], [512.0, 3.5]], "cpu_start": 0.125, "dram_slice_seconds": 0.0625,
             "gpu": [[1.0, 0.5]], "gpu_start": 0.0, "link_slice_seconds": 0.75},
}
CALIBRATION = {"entries": [ENTRY]}


def popularity(content):
    return sealed("fiddler expert popularity", content)


def calibration(content):
    return sealed("fiddler calibration", content, version=2)


FILES = {
    "popularity": {
        "valid": popularity(POPULARITY),
        "valid_nothing_read": popularity({**POPULARITY, "tokens": 0, "counts": [[0] * 3] * 2}),
        "bad_truncated": popularity(POPULARITY)[:-1],
        "bad_checksum": popularity(POPULARITY).replace(b"5, 3, 2", b"5, 2, 3"),
        "bad_version": sealed("fiddler expert popularity", POPULARITY, version=2),
        "bad_kind": calibration(POPULARITY),
        "bad_sum": popularity(changed(POPULARITY, "counts", 0, 2, 1)),
        "bad_layers": popularity(changed(POPULARITY, "layers", 65536)),
        "bad_huge": popularity({**POPULARITY, "tokens": 2**46, "counts": [[2**63, 0, 0], [1e300, -1, 0]]}),
        "bad_top_k": popularity(changed(POPULARITY, "top_k", 4)),
    },
    "calibration": {
        "valid": calibration(CALIBRATION),
        "valid_none": calibration({"entries": []}),
        "bad_truncated": calibration(CALIBRATION)[:-1],
        "bad_checksum": calibration(CALIBRATION).replace(b"40.5", b"41.5"),
        "bad_twice": calibration({"entries": [ENTRY, ENTRY]}),
        "bad_device": calibration(changed(CALIBRATION, "entries", 0, "hardware", "device", "")),
        "bad_format": calibration(changed(CALIBRATION, "entries", 0, "geometry", "format", "int2")),
        "bad_knots": calibration(changed(CALIBRATION, "entries", 0, "cost", "cpu", [[2.0, 1.0], [1.0, 2.0]])),
        "bad_entries": calibration({"entries": {}}),
    },
}

if __name__ == "__main__":
    for target, files in FILES.items():
        folder = FOLDER / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, content in files.items():
            (folder / f"{name}.json").write_bytes(content)
