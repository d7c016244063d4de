"""The steps of a trial, the most valuable first, and those that are not a matter of speed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from gpu import bundle, machine, peers, scenarios
from gpu.engine import DEMO, POLICIES, fiddler_of, json_of, knows, memory_for_share, require_device
from gpu.runner import Failed, Session, Skipped, Step

PROMPTS = ("Once upon a time", "The king said to his youngest daughter that she must")
TOKENS = 48
CALIBRATE_SECONDS = 30


def programs(session: Session) -> None:
    """Finds what the trial runs, and builds it if it is not there."""
    setting = session.setting
    session.put("bundle", read_manifest(setting.bundle))
    candidates = [setting.fiddler] if setting.fiddler else [bundle.locate(bundle.FIDDLER, setting.bundle)]
    fiddler = next((path for path in candidates if path and bundle.runs(path, session.env)), None)
    if fiddler is None and not setting.fiddler:
        build(session)
        fiddler = bundle.find_built(bundle.FIDDLER, [bundle.REPOSITORY / "build/release"])
    if fiddler is None or not bundle.runs(fiddler, session.env):
        tried = [str(path) for path in candidates if path]
        raise Failed(f"no fiddler that runs: {', '.join(tried) or 'neither bundle nor build'}")
    session.put("fiddler", str(fiddler))
    session.put("version", session.run([fiddler, "--version"], 20).out.strip())
    session.put("plugin_beside_it", (fiddler.parent / bundle.PLUGIN).exists())
    (session.work / "fiddler.path").write_text(str(fiddler))


def read_manifest(folder: Path) -> dict:
    try:
        return json.loads((folder / bundle.MANIFEST).read_text())
    except (OSError, ValueError):
        return {"missing": "there is no bundle"}


def build(session: Session) -> None:
    if session.setting.dry_run:
        raise Failed("no fiddler in the bundle or in build/release; a dry run builds nothing")
    if not shutil.which("cmake") or not shutil.which("ninja"):
        raise Failed("no bundle, and no cmake and ninja to build with: run tools/gpu_trial --bundle where it was built")
    os.chdir(bundle.REPOSITORY)
    configured = session.run(["cmake", "--preset", "release"])
    if configured.code != 0:
        raise Failed(f"cmake: {configured.why()}")
    for target in bundle.BUILD_TARGETS:  # each by itself: one that does not exist must not stop the others
        built = session.run(["cmake", "--build", "build/release", "--target", target])
        session.add("built", {"target": target, "code": built.code, "seconds": built.seconds})


def environment(session: Session) -> None:
    session.put("machine", machine.describe())
    session.put("nvidia_smi", machine.smi()[:6000])


def cuda_tests(session: Session) -> None:
    """The test programs that run on a real device. What of theirs needs files of the source tree fails elsewhere by name."""
    found = {name: bundle.locate(name, session.setting.bundle) for name in bundle.CUDA_TESTS}
    session.put("missing", [name for name, path in found.items() if path is None])
    # Without the word that there is a GPU they run what they can on the host.
    env = {} if session.setting.dry_run else bundle.CUDA_TEST_ENV
    if not any(found.values()):
        raise Skipped(f"no {', '.join(found)} in the bundle or the build")
    failures, on_device = 0, True
    for name, path in found.items():
        if path is None:
            continue
        report = session.work / f"{name}.json"
        # The machine that plays a GPU proves nothing about one.
        done = session.run([path, f"--gtest_output=json:{report}", "--gtest_brief=1", "--gtest_filter=-MachineTest.*"], **env)
        device = re.search(r"^device: (.+)$", done.out, re.MULTILINE)
        on_device &= device is not None
        entry = {
            "name": name,
            "device": device[1] if device else None,
            "code": done.code,
            "seconds": done.seconds,
            **summary_of(report),
        }
        if done.code != 0:
            failures += 1
            entry |= {"why": done.why(), "out_tail": done.out[-1500:]}
        session.add("tests", entry)
    if failures:
        raise Failed(f"{failures} of {sum(path is not None for path in found.values())} test programs failed")
    if not on_device and not session.setting.dry_run:
        raise Failed("a test program named no device that it ran on: it may have played one")


def summary_of(report: Path) -> dict:
    """Of gtest's JSON; {} if the program did not live to write it."""
    try:
        content = json.loads(report.read_text())
        cases = [case | {"suite": suite["name"]} for suite in content["testsuites"] for case in suite["testsuite"]]
    except (OSError, ValueError, KeyError):
        return {}
    failed = [
        f"{case['suite']}.{case['name']}: {case['failures'][0].get('failure', '')[:300]}"
        for case in cases
        if case.get("failures")
    ]
    skipped = sum(case.get("result") == "SKIPPED" for case in cases)
    return {"ran": len(cases) - skipped, "skipped": skipped, "failed": failed[:40]}


def tokens(session: Session) -> None:
    """Greedy text of the demo model: the device's under every policy against the CPU's, a quarter of the experts resident."""
    require_device(session, "run")
    fiddler, device = fiddler_of(session), session.setting.device
    memory = memory_for_share(session, DEMO, 0.25)
    session.put("gpu_memory", memory)
    differ = 0
    for arithmetic in ("exact", "fast"):
        for prompt in PROMPTS:
            base = [fiddler, "run", DEMO, "-p", prompt, "-n", str(TOKENS), "--temp", "0", "--ignore-eos", "--json",
                    "--arithmetic", arithmetic]  # fmt: skip
            expected = json_of(session.run([*base, "--device", "cpu"], 60), "on the CPU")["token_ids"]
            for policy in POLICIES:
                done = session.run([*base, "--device", device, "--gpu-memory", memory, "--policy", policy], 30)
                entry = {"arithmetic": arithmetic, "policy": policy, "prompt": prompt} | compared(done, expected)
                # Fast arithmetic rounds sums of another order and may choose another of two nearly equal words: said, not
                # hidden, but no failure.
                differ += not entry["same"] and (arithmetic == "exact" or "error" in entry)
                session.add("runs", entry)
    if differ:
        raise Failed(f"{differ} of {2 * len(PROMPTS) * len(POLICIES)} runs gave other tokens than the CPU in exact arithmetic, or none")


def compared(done, expected: list[int]) -> dict:
    try:
        said = json_of(done, "run")
        got = said["token_ids"]
    except (Failed, KeyError) as error:
        return {"same": False, "error": str(error)}
    agree = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    return {"same": got == expected, "agree_until": agree, "of": len(expected), "expert_slices": said.get("expert_slices")}


def calibrate(session: Session) -> None:
    """Kept where the scenarios' policies look for it (XDG_CACHE_HOME is the trial's)."""
    require_device(session, "calibrate")
    if session.setting.dry_run:
        arguments = ["demo", "--gpu-memory", "64MiB", "--seconds", "0.5"]
    else:
        arguments = [scenarios.CALIBRATED_FIRST, "--seconds", str(CALIBRATE_SECONDS)]
    command = [fiddler_of(session), "calibrate", *arguments, "--device", session.setting.device, "--json"]
    session.put("calibration", json_of(session.run(command), "calibrate"))
    (session.work / scenarios.CALIBRATED).touch()


def kernels(session: Session) -> None:
    """Micro-benchmarks of the device's operations: {"kernels": [{"name", "shape", "us", ...}, ...]}, figures of a kernel
    beside its share of a limit."""
    if not knows(session, "bench", "--kernels"):
        raise Skipped("this fiddler's bench knows no --kernels")
    shape = [DEMO, "--prompt", "16", "--gpu-memory", "64MiB"] if session.setting.dry_run else [
        scenarios.CALIBRATED_FIRST, "--prompt", "2048"]  # fmt: skip
    command = [fiddler_of(session), "bench", *shape, "--kernels", "--device", session.setting.device, "--json"]
    session.put("result", json_of(session.run(command), "bench --kernels"))


def sanitizer(session: Session) -> None:
    """The CUDA tests once more under compute-sanitizer: it finds what wrong figures do not show."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    tests = [path for name in bundle.CUDA_TESTS if (path := bundle.locate(name, session.setting.bundle))]
    if session.setting.dry_run:
        raise Skipped("dry run: there is no device to watch")
    if not Path(program).exists() or not tests:
        raise Skipped("no compute-sanitizer" if tests else "no CUDA tests in the bundle or the build")
    for test in tests:
        command = [program, "--tool", "memcheck", "--error-exitcode", "99", test, "--gtest_brief=1"]
        done = session.run(command, **bundle.CUDA_TEST_ENV)
        session.add("tests", {"name": test.name, "code": done.code, "seconds": done.seconds, "out_tail": done.out[-3000:]})
        if done.code != 0:
            raise Failed(f"{test.name}: {done.why()}")


STEPS = (
    Step("programs", "find or build the programs", 240, programs),
    Step("environment", "the machine", 30, environment),
    Step("cuda-tests", "the CUDA tests on the device", 90, cuda_tests),
    Step("tokens", "greedy text of the demo model on the device and on the CPU, six policies", 80, tokens),
    Step("calibrate", "what slices, link and hand-over cost", 75, calibrate),
    Step("mixtral", "Mixtral-8x7B under six policies: single batch, long prompts, batches", 260, scenarios.run_mixtral),
    Step("published-policy", "the published Fiddler's policy in PyTorch", 100, peers.run_published_policy),
    Step("qwen3", "Qwen3-30B-A3B under six policies", 90, scenarios.run_qwen),
    Step("kernels", "micro-benchmarks of the device's operations", 30, kernels),
    Step("offload", "transformers with accelerate's offload", 60, peers.run_offload),
    Step("sanitizer", "the CUDA tests under compute-sanitizer", 60, sanitizer),
    Step("llama-bench", "an installed llama.cpp", 60, peers.run_llama_bench),
)
