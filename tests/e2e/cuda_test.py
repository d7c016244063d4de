"""--device cuda: finding and opening the plugin, every way that can fail, and runs on one that plays a GPU
(tests/fake_plugin). The real plugin, where it is built: what it exports and needs, what it says without a driver.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import unittest
from pathlib import Path

import harness
from harness import DEMO, Finished, TestCase

RUN = ("run", DEMO, "-p", "Once upon a time", "-n", "16", "--temp", "0", "--json")
QUICK = ("--seconds", "0.1")


def fake_plugin() -> Path:
    return Path(harness.FIDDLER).parent / "tests/libfiddler_fake_plugin.so"


def real_plugin() -> Path:
    return Path(harness.FIDDLER).parent / "libfiddler_cuda.so"


class CudaTestCase(TestCase):
    def setUp(self) -> None:
        self.cache = self.folder()  # with no calibration in it

    def fiddler(self, *arguments: str | bytes | Path, program: Path | None = None, **settings: object) -> Finished:
        """Settings: FIDDLER_CUDA_PLUGIN is `plugin` (by default the fake one), FAKE_PLUGIN_NAME is `name`, .."""
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache)}
        plugin = settings.pop("plugin", fake_plugin())
        environment.pop("FIDDLER_CUDA_PLUGIN", None)
        if plugin is not None:
            environment["FIDDLER_CUDA_PLUGIN"] = str(plugin)
        environment |= {f"FAKE_PLUGIN_{name.upper()}": str(value) for name, value in settings.items()}
        command = [str(program or harness.FIDDLER), *arguments]
        process = subprocess.run(command, capture_output=True, timeout=harness.TIMEOUT_S, env=environment)
        return Finished(process)

    def tokens(self, *arguments: str | bytes | Path, **settings: object) -> list[int]:
        run = self.fiddler(*RUN, *arguments, **settings)
        self.assertEqual(run.code, 0, run.err)
        return run.json()["token_ids"]

    def reason(self, *arguments: str | bytes | Path, **settings: object) -> str:
        """Why --device cuda is refused: one line, exit code 1, before anything is loaded."""
        run = self.fiddler(*RUN, "--device", "cuda", *arguments, **settings)
        self.assertEqual((run.code, run.out), (1, b""), run.err)
        self.assertEqual(len(run.err.splitlines()), 1, run.err)
        return self.the_error(run)

    def program_alone(self) -> Path:
        """The program in a folder of its own, bin/, where nothing else is."""
        program = self.folder() / "bin/fiddler"
        program.parent.mkdir()
        shutil.copy2(harness.FIDDLER, program)
        return program


class OnAPlayedGpu(CudaTestCase):
    def test_the_same_tokens(self) -> None:
        expected = self.tokens("--device", "cpu")
        for device in ("cuda", "auto"):
            run = self.fiddler(*RUN, "--device", device)
            self.assertEqual(run.code, 0, run.err)
            result = run.json()
            self.assertEqual(result["token_ids"], expected)
            self.assertIn("Fake GPU: 1.0 GiB of 1.0 GiB are used", run.err)
            self.assertGreater(result["expert_slices"]["hit_rate"], 0.9, "there is room for all")
        run = self.fiddler(*RUN, "--device", "cuda", "--gpu-memory", "20MiB", "--policy", "expert-cache")
        self.assertEqual(run.json()["token_ids"], expected)
        self.assertIn("Fake GPU: 20.0 MiB of 1.0 GiB are used", run.err)
        self.assertGreater(run.json()["expert_slices"]["fetched"], 0)

    def test_it_is_no_host_memory(self) -> None:
        """--ram does not count what lies on the device, in contrast to an emulated one."""
        device = ("--gpu-memory", "200MiB", "--packed-file", self.cache / "experts.packed", "--ram", "1MiB")
        enough = [int(self.the_error(run, mentions=("--ram",)).split("at least ")[1].split("MiB")[0])
                  for run in (self.fiddler(*RUN, "--device", "cuda", *device),
                              self.fiddler(*RUN, "--device", "emulated", *device))]
        self.assertLess(enough[0] + 8, enough[1])

    def test_perplexity(self) -> None:
        text = self.folder() / "text.txt"
        text.write_text("Once there was a king who had three daughters, and the youngest was the fairest of all.")
        command = ("eval", DEMO, "--text", text, "--arithmetic", "exact", "--json", "--device")
        runs = [self.fiddler(*command, device) for device in ("cpu", "cuda")]
        expected, result = (run.json()["perplexity"] for run in runs)
        self.assertAlmostEqual(result, expected, places=3)
        self.assertIn("Fake GPU", runs[1].err)

    def test_options_of_an_emulated_device(self) -> None:
        self.assertIn("--adversary", self.reason("--adversary", "1"))
        self.assertIn("--adversary decides nothing", self.fiddler(*RUN, "--adversary", "1").err)
        for size in ("0", "a lot"):
            self.assertIn(f"got {size}" if size == "0" else size, self.reason("--gpu-memory", size))


class Calibrated(CudaTestCase):
    def test_what_was_measured_of_the_device_is_found_again(self) -> None:
        gpu = {"name": "NVIDIA H100 80GB HBM3", "installed": "3GiB"}
        note = "NVIDIA H100 80GB HBM3 is taken to be as fast as h100-16vcpu: 'fiddler calibrate"
        self.assertIn(note, self.fiddler(*RUN, "--device", "cuda", **gpu).err)
        run = self.fiddler("calibrate", DEMO, *QUICK, "--device", "cuda", "--gpu-memory", "64MiB", "--json", **gpu)
        self.assertEqual(run.code, 0, run.err)
        self.assertEqual(run.json()["device"], gpu["name"])
        self.assertNotIn("runs ignore them", run.err)
        entries = json.loads((self.cache / "fiddler/calibration.json").read_text())["entries"]
        self.assertEqual({entry["hardware"]["device"] for entry in entries}, {gpu["name"]})
        self.assertEqual({entry["hardware"]["device_memory_gib"] for entry in entries}, {3}, "installed, not used")
        for memory in ((), ("--gpu-memory", "32MiB")):
            self.assertNotIn("is taken to be", self.fiddler(*RUN, "--device", "cuda", *memory, **gpu).err)
        # Another GPU, or the same with other memory, is another machine.
        self.assertIn("is taken to be", self.fiddler(*RUN, "--device", "cuda", **gpu | {"installed": "5GiB"}).err)
        self.assertIn("is taken to be", self.fiddler(*RUN, "--device", "cuda", **gpu | {"name": "H100 PCIe"}).err)

    def test_a_damaged_file_is_named(self) -> None:
        (self.cache / "fiddler").mkdir()
        (self.cache / "fiddler/calibration.json").write_text("damaged")
        run = self.fiddler(*RUN, "--device", "cuda")
        self.assertEqual(run.code, 0, run.err)
        self.assertIn("calibration.json: expected", run.err)
        self.assertIn("going on without it", run.err)

    def test_machines_like_it(self) -> None:
        for name, hardware in (("NVIDIA GeForce RTX 4090", "rtx4090-ddr5"), ("NVIDIA GeForce RTX 5090", "rtx5090-9950x"),
                               ("NVIDIA L4", "l4-8ch"), ("NVIDIA L40S", "rtx4090-ddr5"),
                               ("NVIDIA H200", "h100-16vcpu")):
            run = self.fiddler(*RUN, "--device", "cuda", name=name)
            self.assertIn(f"{name} is taken to be as fast as {hardware}", run.err)
        run = self.fiddler(*RUN, "--device", "cuda", "--hardware", "l4-8ch")
        self.assertNotIn("is taken to be", run.err)

    def test_calibrate_without_a_gpu(self) -> None:
        run = self.fiddler("calibrate", DEMO, *QUICK, "--device", "cuda", failure="no-device")
        self.assertEqual(run.code, 1)
        self.the_error(run, mentions=("--device cuda: no device",))
        run = self.fiddler("calibrate", DEMO, *QUICK, "--json", failure="no-device")
        self.assertEqual((run.code, run.json()["device"]), (0, ""), run.err)
        run = self.fiddler("calibrate", DEMO, *QUICK, "--gpu-memory", "1GiB", failure="no-device")
        self.assertEqual(run.code, 1)
        self.the_error(run, mentions=("--gpu-memory", "--device auto"))


class Reasons(CudaTestCase):
    def test_no_plugin(self) -> None:
        program = self.program_alone()
        reason = self.reason(program=program, plugin=None)
        for words in ("no plugin", f"{program.parent}/libfiddler_cuda.so", f"{program.parent.parent}/lib/"):
            self.assertIn(words, reason)
        run = self.fiddler(*RUN, program=program, plugin=None)
        self.assertEqual(run.code, 0, run.err)
        self.assertNotIn("GPU", run.err)

    def test_where_it_is_found(self) -> None:
        program = self.program_alone()
        library = program.parent.parent / "lib/libfiddler_cuda.so"
        library.parent.mkdir()
        shutil.copy2(fake_plugin(), library)
        run = self.fiddler(*RUN, "--device", "cuda", program=program, plugin=None)
        self.assertIn("Fake GPU", run.err)
        # Beside the program comes first; a named file first of all, and alone.
        (program.parent / "libfiddler_cuda.so").write_text("no library")
        self.assertIn(f"{program.parent}/libfiddler_cuda.so", self.reason(program=program, plugin=None))
        self.assertIn("Fake GPU", self.fiddler(*RUN, "--device", "cuda", program=program).err)
        self.assertIn("/nowhere/x.so", self.reason(program=program, plugin="/nowhere/x.so"))

    def test_not_a_plugin(self) -> None:
        self.assertIn("cannot be loaded", self.reason(plugin=DEMO / "config.json"))
        self.assertIn("no plugin of Fiddler", self.reason(plugin=fake_plugin().with_name("libfiddler_no_plugin.so")))

    def test_another_version(self) -> None:
        self.assertRegex(self.reason(failure="abi"), r"expected version (\d+) of (\d+) bytes, got version (?!\1)\d+ of \2")
        self.assertRegex(self.reason(failure="size"), r"expected version (\d+) of (\d+) bytes, got version \1 of (?!\2)")

    def test_what_the_plugin_says(self) -> None:
        self.assertEqual(self.reason(failure="no-device"), "fiddler: --device cuda: no device: none in this test")
        self.assertIn("driver too old: expected one for CUDA 13.0, got one for CUDA 11.4", self.reason(failure="too-old"))
        self.assertIn("error 2 without a reason", self.reason(failure="silent"))
        self.assertIn("expected a device, got none", self.reason(failure="null"))
        self.assertIn("too little memory: expected 2.0 GiB", self.reason("--gpu-memory", "2GiB"))
        self.assertIn("GPU memory", self.the_error(self.fiddler(*RUN, "--device", "cuda", "--gpu-memory", "1MiB")))

    def test_auto_goes_on_without(self) -> None:
        expected = self.tokens("--device", "cpu")
        for failure in ("no-device", "too-old", "abi", "silent"):
            run = self.fiddler(*RUN, "--device", "auto", failure=failure)
            self.assertEqual(run.code, 0, run.err)
            self.assertEqual(run.json()["token_ids"], expected)
            notes = [line for line in run.err.splitlines() if "no GPU is used" in line]
            self.assertEqual(len(notes), 0 if failure == "no-device" else 1, run.err)
        run = self.fiddler(*RUN, "--gpu-memory", "1GiB", failure="no-device")
        self.assertIn("no GPU is used, so --gpu-memory decides nothing", run.err)


class TheRealPlugin(CudaTestCase):
    def setUp(self) -> None:
        super().setUp()
        if not real_plugin().exists():
            self.skipTest("libfiddler_cuda.so is not built: no nvcc, or not in this preset")

    def output(self, *command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def test_exports_one_function(self) -> None:
        names = [line.split()[-1] for line in self.output("nm", "-D", "--defined-only", real_plugin()).splitlines()]
        self.assertEqual(names, ["fiddler_open_device"])

    def test_needs_the_c_library_alone(self) -> None:
        entries = self.output("readelf", "-d", real_plugin()).splitlines()
        needed = [entry.split("[")[1].rstrip("]") for entry in entries if "(NEEDED)" in entry]
        self.assertIn("libc.so.6", needed)
        for library in needed:
            self.assertRegex(library, r"^(libc|libm|libdl|librt|libpthread|ld-linux[-\w]*)\.so")

    @unittest.skipIf(Path("/dev/nvidiactl").exists(), "this machine has a driver")
    def test_says_that_there_is_no_driver(self) -> None:
        for plugin in (None, real_plugin()):  # beside the program, and named
            self.assertIn("--device cuda: no driver: ", self.reason(plugin=plugin))
        run = self.fiddler(*RUN, plugin=None)
        self.assertEqual(run.code, 0, run.err)
        self.assertNotIn("GPU", run.err)


if __name__ == "__main__":
    harness.main()
