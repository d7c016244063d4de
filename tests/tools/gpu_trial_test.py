#!/usr/bin/env python3
"""tools/gpu_trial without a GPU: python3 gpu_trial_test.py PATH-OF-FIDDLER [unittest arguments].

Its steps run a stand-in for fiddler (fake_fiddler); only the bundle needs the real one.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tools"))

from gpu import bundle, machine, scenarios  # noqa: E402
from gpu.engine import POLICIES, Setting  # noqa: E402
from gpu.results import Results, ResultsError, read  # noqa: E402
from gpu.runner import Failed, Finished, Runner, Session, Skipped, Step  # noqa: E402
from gpu.steps import STEPS  # noqa: E402

TRIAL = REPOSITORY / "tools/gpu_trial"
FAKE = HERE / "fake_fiddler"
FIDDLER = None  # set at the end


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def eventually(self, condition, what, seconds=20):
        until = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), until, what)
            time.sleep(0.05)


class DryRun(InFolder):
    def start(self, *arguments, fake="", **environment):
        command = [TRIAL, "--dry-run", "--out", self.folder, "--fiddler", FAKE, "--bundle-folder", self.folder / "none",
                   "--peers-python", self.folder / "no-python", *arguments]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env=os.environ | {"FAKE": fake} | environment)  # fmt: skip

    def trial(self, *arguments, fake=""):
        """Exit code and the file, its steps by name."""
        process = self.start(*arguments, fake=fake)
        said = process.communicate(timeout=120)[0]
        content = json.loads((self.folder / "dry-run.json").read_text())
        return process.returncode, content, {entry["name"]: entry for entry in content["steps"]}, said

    def test_every_step_is_done_or_says_why_not(self):
        code, content, steps, said = self.trial()
        self.assertEqual(code, 0, said)
        self.assertEqual(list(steps), [step.name for step in STEPS])
        for name, entry in steps.items():
            self.assertIn(entry["status"], ("done", "skipped"), name)
            self.assertEqual(entry["status"] == "skipped", bool(entry["reason"]), name)
        done = {name for name, entry in steps.items() if entry["status"] == "done"}
        self.assertLessEqual({"programs", "environment", "tokens", "calibrate", "mixtral"}, done)
        self.assertEqual(content["ended"], "all steps had their turn")
        self.assertEqual({run["policy"] for run in steps["tokens"]["data"]["runs"]}, set(POLICIES))
        measured = steps["mixtral"]["data"]["scenarios"]
        self.assertEqual((measured[0]["way"], measured[0]["ttft_s"], measured[0]["inter_token_s"]), ("run", 0.25, 0.125))
        self.assertAlmostEqual(measured[0]["end_to_end_tokens_per_s"], 6 / (0.25 + 5 * 0.125))
        self.assertIn("bench takes no --device", measured[-1]["error"])  # the batch

    def test_its_file_is_no_measurement(self):
        self.trial("--only", "environment")
        path = self.folder / "dry-run.json"
        self.assertIn("DRY RUN", path.read_text().splitlines()[1])
        with self.assertRaisesRegex(ResultsError, "dry run"):
            read(path)
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"kind": "gpu-trial"}))  # one of its marks alone is enough
        with self.assertRaisesRegex(ResultsError, "dry run"):
            read(path)

    def test_scenarios_in_one_process(self):
        code, _, steps, said = self.trial("--only", "mixtral", fake="scenarios")
        self.assertEqual((code, list(steps)), (0, ["programs", "mixtral"]), said)
        data = steps["mixtral"]["data"]
        self.assertEqual((data["model"]["way"], data["loaded"]["load_s"]), ("bench --scenarios", 0.5))
        wanted = scenarios.dry_scenarios()
        self.assertEqual(len(data["scenarios"]), len(wanted) - 1)
        self.assertEqual(data["scenarios"][1]["error"], "out of slots")
        self.assertEqual(data["scenarios"][2]["policy"], wanted[2].policy)
        self.assertEqual(data["scenarios"][0]["decode_tokens_per_s"], 8)
        self.assertEqual(data["left_out"][0]["batch"], 2)
        self.assertIn("it fell over", data["ended"])

    def test_other_tokens_are_a_failure(self):
        code, _, steps, _ = self.trial("--only", "tokens,environment", fake="differ=stream")
        self.assertEqual((code, steps["tokens"]["status"]), (1, "failed"))
        self.assertIn("2 of 24 runs", steps["tokens"]["reason"])
        wrong = [run for run in steps["tokens"]["data"]["runs"] if not run["same"]]
        self.assertEqual({(run["policy"], run["agree_until"]) for run in wrong}, {("stream", 3)})

    def test_a_fiddler_without_devices(self):
        code, _, steps, _ = self.trial("--only", "tokens,calibrate,mixtral,kernels", fake="nodevice")
        self.assertEqual((code, {entry["status"] for name, entry in steps.items() if name != "programs"}), (0, {"skipped"}))
        self.assertIn("takes no --device", steps["tokens"]["reason"])

    def test_killed_in_the_middle(self):
        for how, ended in ((signal.SIGKILL, "it was killed, or still runs"), (signal.SIGTERM, "interrupted")):
            note = self.folder / f"pid-{how}"
            process = self.start("--only", "environment,calibrate,kernels", fake="hang=calibrate", FAKE_PID=str(note))
            self.addCleanup(process.stdout.close)
            self.eventually(lambda: note.exists() and note.read_text(), "calibrate did not start")
            process.send_signal(how)
            process.wait(20)
            content = json.loads((self.folder / "dry-run.json").read_text())
            self.assertEqual([entry["status"] for entry in content["steps"]], ["done", "done", "running"])
            self.assertTrue(content["steps"][1]["data"]["machine"]["cpu"]["model"])
            self.assertEqual(content["ended"], ended)
            self.eventually(lambda: not is_alive(int(note.read_text())), "what the step ran lives on")

    def test_going_on_from_an_earlier_trial(self):
        self.trial("--only", "environment,tokens", fake="differ=stream")
        first = self.folder / "first.json"
        (self.folder / "dry-run.json").rename(first)
        code, content, steps, _ = self.trial("--onto", str(first), "--only", "tokens,kernels")
        self.assertEqual(code, 0)
        states = {name: entry["status"] for name, entry in steps.items()}
        self.assertEqual(states, {"programs": "done", "environment": "done", "tokens": "done", "kernels": "skipped"})
        self.assertEqual(content["earlier"][0]["ended"], "all steps had their turn")
        first.write_text(json.dumps(json.loads(first.read_text()) | {"gpu": "another"}))
        self.assertIn("another", self.start("--onto", str(first)).communicate(timeout=60)[0])

    def test_unknown_step(self):
        process = self.start("--only", "nosuch")
        self.assertIn("no such step: nosuch", process.communicate()[0])
        self.assertEqual(process.returncode, 2)


class PlayedGpu(InFolder):
    """The steps as on a machine with a GPU, where nvidia-smi and fiddler are played: nothing here is tiny."""

    def test_all_steps(self):
        smi = self.folder / "bin/nvidia-smi"
        smi.parent.mkdir()
        smi.write_text(
            '#!/bin/sh\ncase "$*" in *name*) echo "NVIDIA H100 80GB HBM3";; *memory.total*) echo 81559;; *) exit 1;; esac\n'
        )
        smi.chmod(0o755)
        test = self.folder / "bundle/cuda_test"
        test.parent.mkdir()
        test.write_text('#!/bin/sh\n[ "$FIDDLER_TEST_CUDA" = 1 ] && echo "$SAID"\n')
        test.chmod(0o755)
        command = [TRIAL, "--out", self.folder, "--fiddler", FAKE, "--bundle-folder", self.folder / "bundle",
                   "--peers-python", self.folder / "no-python", "--minutes", "2"]  # fmt: skip
        environment = os.environ | {
            "FAKE": "scenarios",
            "PATH": f"{smi.parent}:{os.environ['PATH']}",
            "SAID": "device: NVIDIA H100",
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        (path,) = self.folder.glob("*-h100-80gb-hbm3-gpu.json")
        content = read(path)
        steps = {entry["name"]: entry for entry in content["steps"]}
        states = {name: entry["status"] for name, entry in steps.items()}
        states.pop("sanitizer")  # there may be one here
        skipped = {"published-policy", "kernels", "offload", "llama-bench"}
        expected = {step.name: "skipped" if step.name in skipped else "done" for step in STEPS if step.name != "sanitizer"}
        self.assertEqual(states, expected, done.stdout)
        self.assertEqual(steps["environment"]["data"]["machine"]["gpu"]["memory.total"], "81559")
        about = steps["mixtral"]["data"]["model"]
        self.assertEqual((about["layers"], about["gpu_memory"], about["way"]), (32, f"{24 << 20}KiB", "bench --scenarios"))
        got = {(e["policy"], e["prompt"], e["for_gen"], e["batch"]) for e in steps["mixtral"]["data"]["scenarios"]}
        self.assertLessEqual(
            {("balanced", 128, 128, 1), ("stream", 32, 64, 1), ("balanced", 4096, 1, 1), ("fiddler", 32, 16, 16)}, got
        )
        self.assertEqual(steps["cuda-tests"]["data"]["tests"][0]["device"], "NVIDIA H100")
        # A report of a trial that calibrated nothing still comes.
        report = subprocess.run([REPOSITORY / "tools/gpu_report", path, "--out", self.folder / "report"], check=False)
        self.assertEqual(report.returncode, 0)
        self.assertIn("NVIDIA H100", (self.folder / "report/gpu.md").read_text())
        # Tests that passed, but maybe on a device that was played, prove nothing.
        silent = environment | {"SAID": ""}
        subprocess.run([*command, "--only", "cuda-tests"], capture_output=True, env=silent, timeout=60, check=False)
        entry = json.loads(path.read_text())["steps"][1]
        self.assertEqual((entry["status"], entry["data"]["tests"][0]["code"]), ("failed", 0))


class Steps(InFolder):
    def run_steps(self, *steps, seconds=60.0):
        results = Results(self.folder / "results.json", False, {})
        Runner(results, None, self.folder, self.folder / "log", seconds, dict(os.environ)).run(list(steps))
        return json.loads((self.folder / "results.json").read_text())["steps"]

    def test_a_step_that_hangs_is_killed_with_all_it_started(self):
        note = self.folder / "pid"

        def hang(session):
            session.put("before", 1)
            # A grandchild that ignores polite signals and keeps every file open.
            session.run(
                ["sh", "-c", f"trap '' TERM HUP; sh -c 'trap \"\" TERM; sleep 600' & echo $! > {note}; wait"], limit_s=600
            )
            time.sleep(600)

        started = time.monotonic()
        first, second = self.run_steps(Step("hang", "", 1.0, hang), Step("next", "", 5, lambda session: session.put("x", 2)))
        self.assertLess(time.monotonic() - started, 10)
        self.assertEqual((first["status"], first["data"]), ("timeout", {"before": 1}))
        self.assertIn("limit of 1 s", first["reason"])
        self.assertEqual((second["status"], second["data"]), ("done", {"x": 2}))
        self.eventually(lambda: not is_alive(int(note.read_text())), "the grandchild lives on")

    def test_what_goes_wrong_is_said(self):
        def fail(kind):
            def run(session):
                session.add("list", 1)
                session.add("list", 2)
                raise kind("because")

            return run

        kill_itself = lambda session: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        entries = self.run_steps(Step("skips", "", 9, fail(Skipped)), Step("fails", "", 9, fail(Failed)), Step("breaks", "", 9, fail(KeyError)),
                                 Step("dies", "", 9, kill_itself), Step("leaves", "", 9, lambda session: os._exit(0)))  # fmt: skip
        self.assertEqual([entry["status"] for entry in entries], ["skipped", "failed", "failed", "failed", "failed"])
        self.assertEqual([entry["data"] for entry in entries[:3]], [{"list": [1, 2]}] * 3)
        self.assertEqual([entry["reason"] for entry in entries[:3]], ["because", "because", "KeyError: 'because'"])
        self.assertIn("SIGKILL", entries[3]["reason"])
        self.assertIn("KeyError", (self.folder / "log").read_text())

    def test_total_budget(self):
        sleep = lambda session: time.sleep(600)  # noqa: E731
        started = time.monotonic()
        entries = self.run_steps(
            Step("long", "", 500, sleep), Step("late", "", 1, sleep), Step("later", "", 1, sleep), seconds=1.5
        )
        self.assertLess(time.monotonic() - started, 10)
        self.assertEqual([entry["status"] for entry in entries], ["timeout", "skipped", "skipped"])
        self.assertEqual(entries[2]["reason"], "no time left")

    def test_programs(self):
        session = Session(None, time.monotonic() + 60, self.folder, self.folder / "record")
        lines = []
        done = session.run(["sh", "-c", "echo a; sleep 0.3; printf b; echo c; echo oops >&2; exit 3"], on_line=lines.append)
        self.assertEqual((done.code, done.out, done.err, lines), (3, "a\nbc\n", "oops\n", ["a", "bc"]))
        self.assertEqual(done.why(), "exit 3: oops")
        killed = session.run(["sleep", "600"], limit_s=0.2)
        self.assertIsNone(killed.code)
        self.assertLess(killed.seconds, 5)
        self.assertEqual(session.run([self.folder / "nosuch"]).code, 127)
        self.assertIn("GPU is on fire", Finished(1, "", "note: x\nfiddler: GPU is on fire\nmore", 1.0).why())


class Cuts(InFolder):
    """How much of Mixtral a machine is given to run."""

    def choose(self, available, rate, in_one=True, left=240.0):
        def size_of(session, path):
            return {"packed_bytes": (1 + 3 * json.loads(Path(path).read_text())["num_hidden_layers"]) << 30}

        session = Session(None, time.monotonic() + left, self.folder, self.folder / "record")
        with (
            mock.patch.object(machine, "memory_bytes", return_value=available),
            mock.patch.object(scenarios, "fill_rate", return_value=rate),
            mock.patch.object(scenarios, "inspect", size_of),
        ):
            return scenarios.choose_cut(session, "mixtral-8x7b", in_one)

    def test_choice(self):
        gib = 1 << 30
        everything = self.choose(128 * gib, 5e9)
        self.assertEqual((everything["layers"], everything["why_cut"]), (32, ""))
        small = self.choose(64 * gib, 5e9)
        self.assertEqual(small["layers"], 16)
        self.assertIn("do not fit", small["why_cut"])
        slow = self.choose(128 * gib, 0.5e9)
        self.assertEqual(slow["layers"], 12)
        self.assertIn("leaves too little", slow["why_cut"])
        self.assertEqual(self.choose(128 * gib, 5e9, in_one=False)["layers"], 4)
        with self.assertRaises(Skipped):
            self.choose(8 * gib, 5e9)

    def test_memory_of_a_cut(self):
        """A cut's experts find as much room on the GPU, in proportion, as the whole model's in 24 GiB."""
        (self.folder / "fiddler.path").write_text(str(FIDDLER))
        setting = Setting(dry_run=True, device="emulated", bundle=self.folder)
        session = Session(setting, time.monotonic() + 60, self.folder, self.folder / "record")
        cut = scenarios.write_cut(session, "mixtral-8x7b", 16)
        memory = scenarios.gpu_memory(session, "mixtral-8x7b", {"layers": 16, "of_layers": 32}, cut)
        simulate = [FIDDLER, "simulate", "--hardware", "h100-16vcpu", "--prompt", "8", "--gen", "2", "--json"]
        resident = []
        for model, size in ((cut, memory), ("mixtral-8x7b", "24GiB")):
            said = subprocess.run([*simulate, model, "--gpu-memory", size], capture_output=True, check=True).stdout
            resident.append(json.loads(said)["resident_fraction"])
        self.assertAlmostEqual(resident[0], resident[1], delta=0.03)


class Bundle(InFolder):
    def test_it_has_the_libraries_and_runs_with_them(self):
        with mock.patch.object(bundle, "BUNDLE_LIMIT", 1 << 40), mock.patch.object(bundle, "JOURNEY_LIMIT", 1 << 40):
            manifest = bundle.make(self.folder / "bundle", [FIDDLER.parent])
        names = {path.name.split(".so")[0] for path in (self.folder / "bundle").iterdir()}
        self.assertLessEqual({"fiddler", "libfmt", "libhwloc", "libpcre2-8", "libutf8proc"}, names)
        self.assertFalse({"libc", "libm", "libstdc++", "libgcc_s", "ld-linux-x86-64"} & names)
        self.assertEqual(manifest["libraries_not_found"], [])
        env = bundle.environment(self.folder / "bundle", self.folder)
        program = bundle.locate("fiddler", self.folder / "bundle")
        self.assertTrue(bundle.runs(program, env))
        found = subprocess.run(["ldd", program], env=env, capture_output=True, text=True, check=True).stdout
        self.assertIn(f"{self.folder}/bundle/libfmt", found)

    def test_what_is_missing_is_named(self):
        build = self.folder / "build"
        build.mkdir()
        with self.assertRaisesRegex(bundle.BundleError, "no fiddler"):
            bundle.make(self.folder / "bundle", [build])
        (build / "fiddler").write_bytes(Path("/bin/true").resolve().read_bytes())
        manifest = bundle.make(self.folder / "bundle", [build])
        self.assertEqual(manifest["missing"], [name for name in bundle.PROGRAMS if name != "fiddler"])
        other = self.folder / "other"
        other.mkdir()
        for name in ("fiddler", "libfiddler_cuda.so"):
            (other / name).write_bytes((build / "fiddler").read_bytes())
        for order in ([build, other], [other, build]):  # the one with the plugin, and all of it from there
            self.assertEqual(bundle.make(self.folder / "bundle", order)["from"], {n: str(other / n) for n in bundle.PROGRAMS[:2]})
        with mock.patch.object(bundle, "BUNDLE_LIMIT", 1000), self.assertRaisesRegex(bundle.BundleError, "limit"):
            bundle.make(self.folder / "bundle", [build])
        with mock.patch.object(bundle, "JOURNEY_LIMIT", 1 << 20), self.assertRaisesRegex(bundle.BundleError, "travel"):
            bundle.make(self.folder / "bundle", [build])


class Names(unittest.TestCase):
    def test_of_the_results(self):
        self.assertEqual(machine.result_name("NVIDIA H100 80GB HBM3", "2026-11-23"), "2026-11-23-h100-80gb-hbm3-gpu.json")


if __name__ == "__main__":
    FIDDLER = Path(sys.argv.pop(1)).resolve()
    unittest.main()
