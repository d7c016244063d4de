"""fiddler calibrate: what it prints, draws and keeps. No figure is checked: only that it is one of a computer."""

from __future__ import annotations

import functools
import json
import os
import xml.etree.ElementTree as xml

import harness
from harness import GOLDENS, TestCase

TINY = GOLDENS / "mixtral-base/model"
QUICK = ("--seconds", "0.1")


@functools.cache
def calibrated() -> bytes:
    """The file of TINY on the CPU alone, measured once."""
    test = TestCase()
    file = test.folder() / "c.json"
    test.succeed("calibrate", TINY, *QUICK, "--output", file)
    content = file.read_bytes()
    test.doCleanups()
    return content


class Calibrate(TestCase):
    def test_prints_draws_and_keeps(self) -> None:
        folder = self.folder()
        file, picture = folder / "deeper/c.json", folder / "c.svg"
        run = self.succeed("calibrate", TINY, *QUICK, "--output", file, "--svg", picture, "--json")
        result = run.json()
        self.assertEqual(result["file"], str(file))
        self.assertEqual([slice["format"] for slice in result["slices"]], ["f32", "int8", "int4"])
        kept = json.loads(file.read_text())
        self.assertEqual(len(kept["entries"]), 3)
        for slice, entry in zip(result["slices"], kept["entries"]):
            tokens = [sample["tokens"] for sample in slice["cpu"]]
            self.assertEqual(tokens, sorted(tokens))
            self.assertEqual(tokens[0], 1)
            fitted = [sample["fitted_us"] for sample in slice["cpu"]]
            self.assertEqual(fitted, sorted(fitted))
            for sample in slice["cpu"]:
                self.assertGreater(sample["us"], 0)
                self.assertGreater(sample["percent_of_limit"], 0)
            self.assertEqual(entry["geometry"]["format"], slice["format"])
            self.assertEqual(entry["geometry"]["hidden"], slice["hidden"])
            self.assertEqual(entry["cost"], slice["cost"])
        words = "".join(xml.fromstring(picture.read_text()).itertext())
        for name in ("f32", "int8", "int4", result["isa"]):
            self.assertIn(name, words)

    def test_the_cache_keeps_what_other_models_left(self) -> None:
        folder = self.folder()
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
        file = folder / "fiddler/calibration.json"
        file.parent.mkdir()
        file.write_bytes(calibrated())
        for model, entries in ((GOLDENS / "qwen2-fused/model", 6), (TINY, 6)):
            run = harness.fiddler("calibrate", model, *QUICK, env=environment)
            self.assertEqual(run.code, 0, run.err)
            self.assertIn(f"kept in {file}".encode(), run.out)
            self.assertNotIn("damaged", run.err)
            self.assertEqual(len(json.loads(file.read_text())["entries"]), entries)

    def test_a_device(self) -> None:
        """Beside the entry of the CPU alone."""
        file = self.folder() / "c.json"
        file.write_bytes(calibrated())
        device = ("--device", "emulated", "--gpu-memory", "64MiB")
        run = self.succeed("calibrate", TINY, *QUICK, *device, "--output", file, "--json")
        self.assertIn("runs ignore them", run.err)
        result = run.json()
        for slice in result["slices"]:
            measured = slice["device"]
            self.assertEqual([sample["tokens"] for sample in measured["slice"]][:2], [1, 2])
            self.assertGreaterEqual(measured["handoff_p99_us"], measured["handoff_p50_us"])
            self.assertGreater(measured["joint_gbps"], 0)
            self.assertEqual(measured["link"][0]["bytes"], 65536)
            self.assertIn("gpu", slice["cost"])
        entries = json.loads(file.read_text())["entries"]
        self.assertEqual([entry["hardware"]["device"] for entry in entries], [""] * 3 + [result["device"]] * 3)
        self.refuse("calibrate", TINY, "--device", "emulated", mentions=("--gpu-memory",))
        self.refuse("calibrate", TINY, "--gpu-memory", "1GiB", mentions=("--gpu-memory", "--device"))
        self.refuse("calibrate", TINY, "--device", "emulated", "--gpu-memory", "1KiB", mentions=("expected", "got"))

    def test_a_damaged_file_is_named_and_started_over(self) -> None:
        file = self.folder() / "c.json"
        file.write_text('{"kind": "fiddler calibration", "vers')
        run = self.succeed("calibrate", TINY, *QUICK, "--output", file)
        self.assertIn(f"damaged and is started over: {file}: expected", run.err)
        self.assertEqual(len(json.loads(file.read_text())["entries"]), 3)

    def test_bad_requests(self) -> None:
        self.refuse("calibrate", "/nowhere", mentions=("/nowhere", "expected"))
        self.refuse("calibrate", TINY, *QUICK, "--output", "/proc/nowhere/x", mentions=("/proc/nowhere",))
        run = harness.fiddler("calibrate", TINY, *QUICK, env={})
        self.assertEqual(run.code, 1)
        self.the_error(run, mentions=("XDG_CACHE_HOME", "HOME"))

    def test_the_file_is_the_old_one_or_a_new_one_whole(self) -> None:
        folder = self.folder()
        file = folder / "c.json"
        command = ("calibrate", TINY, *QUICK, "--output", file)
        old = calibrated()
        file.write_bytes(old)
        # The disk is full: a run writes what it read before it measures anything.
        for size in (0, 1, len(old) // 2, len(old) - 1):
            self.fail_to_write(size, *command)
            self.assertEqual(file.read_bytes(), old)
        self.assertEqual(sorted(path.name for path in folder.iterdir()), ["c.json", "c.json.lock"])
        killed = 0
        for _ in range(10):
            killed += self.kill_while_writing(folder, *command)
            self.assertEqual(file.read_bytes(), old)
        self.assertGreater(killed, 5)
        self.assertNotIn("damaged", self.succeed(*command).err)


if __name__ == "__main__":
    harness.main()
