"""What the tests of the program have in common: running it, reading golden files, and building model folders.

Every test file is run as `python3 FILE PATH-OF-FIDDLER [unittest arguments]`. Standard library only.
"""

from __future__ import annotations

import array
import json
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "models/demo"
GOLDENS = REPOSITORY / "tests/oracle/golden"
FIDDLER = ""  # set by main()
TIMEOUT_S = 120  # of one run; the slowest takes seconds, under a sanitizer ten times as long


def main() -> None:
    global FIDDLER
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} PATH-OF-FIDDLER [unittest arguments]")
    FIDDLER = str(Path(sys.argv.pop(1)).resolve())
    unittest.main(module="__main__")


def is_sanitized() -> bool:
    """Sanitizers take memory and time of their own."""
    return Path(FIDDLER).parent.name in ("asan", "tsan")


def is_thread_sanitized() -> bool:
    return Path(FIDDLER).parent.name == "tsan"


class Finished:
    """A run that has ended: exit code, what it wrote."""

    def __init__(self, process: subprocess.CompletedProcess[bytes]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr.decode("utf-8", "backslashreplace")

    def json(self) -> dict:
        return json.loads(self.out.decode("utf-8"))


def fiddler(*arguments: str | bytes | Path, **options) -> Finished:
    return Finished(subprocess.run([FIDDLER, *arguments], capture_output=True, timeout=TIMEOUT_S, **options))


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times."""
    entries = []
    for entry in os.scandir(folder):
        try:
            status = entry.stat()
            entries.append((entry.name, status.st_size, status.st_mtime_ns))
        except FileNotFoundError:  # renamed meanwhile
            entries.append((entry.name, -1, -1))
    return sorted(entries)


class TestCase(unittest.TestCase):
    def succeed(self, *arguments: str | bytes | Path) -> Finished:
        run = fiddler(*arguments)
        self.assertEqual(run.code, 0, f"{arguments}: {run.err}")
        return run

    def refuse(self, *arguments: str | bytes | Path, mentions: tuple[str, ...] = ()) -> str:
        """Bad input: exit code 1, nothing on stdout, exactly one error line, the last on stderr; returns it."""
        run = fiddler(*arguments)
        self.assertEqual(run.code, 1, f"{arguments}: {run.err}")
        self.assertEqual(run.out, b"", arguments)
        return self.the_error(run, mentions)

    def the_error(self, run: Finished, mentions: tuple[str, ...] = ()) -> str:
        lines = run.err.splitlines()
        errors = [line for line in lines if line.startswith("fiddler: ")]
        self.assertEqual(errors, lines[-1:], run.err)
        for word in mentions:
            self.assertIn(word, errors[0])
        return errors[0]

    def fail_to_write(self, max_bytes: int, *arguments: str | bytes | Path) -> None:
        """No file can become larger than that: every longer write ends half-way, as on a full disk."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # main does so too, but a sanitizer writes before it
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

        run = fiddler(*arguments, preexec_fn=limit)
        self.assertEqual(run.code, 1, f"{arguments}: {run.err}")
        self.the_error(run, mentions=("File too large",))

    def kill_while_writing(self, folder: Path, *arguments: str | bytes | Path, delay_s: float = 0) -> bool:
        """Kills the run as soon as something in the folder changes, or that much later; whether it still ran."""
        before = listing(folder)
        command = [FIDDLER, *arguments]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and listing(folder) == before:
                pass
            time.sleep(delay_s)
            process.kill()
            return process.wait() == -signal.SIGKILL

    def misuse(self, *arguments: str | bytes | Path) -> str:
        """Wrong usage: exit code 2, nothing on stdout, something on stderr."""
        run = fiddler(*arguments)
        self.assertEqual(run.code, 2, f"{arguments}: {run.err}")
        self.assertEqual(run.out, b"", arguments)
        self.assertTrue(run.err.strip(), arguments)
        return run.err

    def folder(self) -> Path:
        """A folder that goes away after the test."""
        path = Path(tempfile.mkdtemp(prefix="fiddler-e2e-"))
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        return path

    def copy_of(self, model: Path) -> Path:
        """A model folder of one's own, to be broken."""
        return Path(shutil.copytree(model, self.folder() / "model"))


def edit_config(model: Path, **changes: object) -> None:
    """Sets fields of config.json; `...` takes a field out."""
    file = model / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({field: value for field, value in config.items() if value is not ...}))


class Golden:
    """What transformers computed for a tiny model (tests/oracle/README.md)."""

    _TYPES = {"F32": "f", "I32": "i", "I64": "q"}

    def __init__(self, name: str) -> None:
        self.model = GOLDENS / name / "model"
        content = (GOLDENS / name / "golden.safetensors").read_bytes()
        (header_bytes,) = struct.unpack("<Q", content[:8])
        self._header = json.loads(content[8 : 8 + header_bytes])
        self._data = content[8 + header_bytes :]
        self.ids = self.tensor("input_ids")
        self.greedy_ids = self.tensor("greedy_ids")

    def tensor(self, name: str) -> list:
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        return array.array(self._TYPES[entry["dtype"]], self._data[begin:end]).tolist()

    def losses(self) -> list[float]:
        """-log p of every prompt token but the first."""
        logits = self.tensor("logits")
        vocab = len(logits) // len(self.ids)
        losses = []
        for t, target in enumerate(self.ids[1:]):
            row = logits[t * vocab : (t + 1) * vocab]
            largest = max(row)
            losses.append(largest + math.log(sum(math.exp(x - largest) for x in row)) - row[target])
        return losses


def golden_names() -> list[str]:
    names = sorted(path.name for path in GOLDENS.iterdir())
    names = [name for name in names if name != "mixtral-dynamic"]  # refused: errors_test.py
    return names[::3] if is_thread_sanitized() else names  # whose runs take fifty times as long
