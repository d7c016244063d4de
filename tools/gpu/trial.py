"""The command line of tools/gpu_trial."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from gpu import bundle, machine, peers
from gpu.engine import Setting
from gpu.results import WARNING, Results, ResultsError, data_of, read
from gpu.runner import Runner, Step
from gpu.steps import STEPS

ABOUT = """One command for ten minutes on a machine with a GPU: is it right, how fast is it, how fast are others.

    tools/gpu_trial --bundle      where Fiddler was built: collects programs and libraries into build/gpu-bundle
    tools/gpu_trial               on the GPU machine: all steps; writes DATE-GPU-gpu.json into --out
    tools/gpu_trial --onto FILE --only offload,sanitizer      ten minutes more, for what the first did not get to
    tools/gpu_trial --dry-run     the same steps in tiny form without a GPU; its file can be mistaken for nothing else

The GPU machine needs the working tree, build/gpu-bundle in it, and Python; PyTorch for the peers. Where $OUT is set the
file goes there. It is valid JSON after every step, whatever ends the trial. A step that fails, hangs or is skipped stops
no other. Copy the file to bench/results/ and run tools/gpu_report on it. Standard library only."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_trial", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="store_true", help="collect what the trial needs, instead of running it")
    parser.add_argument("--bundle-folder", type=Path, default=bundle.BUNDLE, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--build", type=Path, action="append", metavar="DIR",
                        help=f"where --bundle takes programs from (default: {', '.join(bundle.BUILDS)})")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the steps")
    parser.add_argument("--only", metavar="STEPS", help="these alone, comma-separated; `programs` always runs")
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="after that no step is started or goes on (default: %(default)s)"
    )
    parser.add_argument("--onto", type=Path, metavar="FILE", help="go on from the file of an earlier trial: its steps stay")
    parser.add_argument("--dry-run", action="store_true", help="also what happens where there is no GPU")
    parser.add_argument("--out", type=Path, default=default_out(), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--fiddler", type=Path, metavar="PATH", help="instead of the one in bundle or build")
    parser.add_argument("--llama-bench", type=Path, metavar="PATH")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="what llama-bench shall run")
    parser.add_argument(
        "--peers-python", default=sys.executable, metavar="PATH", help="a Python that has PyTorch (default: this one)"
    )
    options = parser.parse_args(arguments)
    if unknown := set((options.only or "").split(",")) - {"", *(step.name for step in STEPS)}:
        parser.error(f"--only: no such step: {', '.join(sorted(unknown))}; see --list")
    if options.minutes <= 0:
        parser.error("--minutes: expected more than 0")
    return options


def default_out() -> Path:
    """$OUT is what comes back from a lent machine."""
    return Path(os.environ["OUT"]) if os.environ.get("OUT") else bundle.REPOSITORY / "build/gpu-trial"


def collect(options: argparse.Namespace) -> int:
    builds = options.build or [bundle.REPOSITORY / build for build in bundle.BUILDS]
    try:
        manifest = bundle.make(options.bundle_folder, builds)
    except (bundle.BundleError, OSError) as error:
        print(f"gpu_trial: {error}", file=sys.stderr)
        return 1
    for name, size in manifest["bytes"].items():
        print(f"{size / 2**20:7.2f} MiB  {name}")
    total, tree = sum(manifest["bytes"].values()), bundle.tree_size()
    print(f"{total / 2**20:7.2f} MiB in {options.bundle_folder}; with the working tree {(total + tree) / 2**20:.2f} MiB travel")
    for what in ("missing", "libraries_not_found"):
        if manifest[what]:
            print(f"{what.replace('_', ' ')}: {', '.join(manifest[what])}")
    return 0


def chosen(only: str | None) -> list[Step]:
    names = set(only.split(",")) if only else {step.name for step in STEPS}
    return [step for step in STEPS if step.name in names | {"programs"}]


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def run(options: argparse.Namespace) -> int:
    gpus = machine.gpu_names()
    dry = options.dry_run or not gpus
    if dry:
        print(f"{WARNING}{'' if options.dry_run else ' (nvidia-smi names none)'}", flush=True)
    started = time.time()
    stamp = time.strftime("%Y-%m-%d", time.gmtime(started))
    name = "dry-run.json" if dry else machine.result_name(gpus[0], stamp)
    about = {"date": stamp, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), "gpu": None if dry else gpus[0],
             "minutes": options.minutes, "command": sys.argv[1:], "ended": "it was killed, or still runs"}  # fmt: skip
    results = Results(options.out / name, dry, about)
    try:
        if options.onto:
            results.take_over(read(options.onto, dry_too=dry))
    except ResultsError as error:
        print(f"gpu_trial: --onto: {error}", file=sys.stderr)
        return 1
    results.save()
    work = Path(tempfile.mkdtemp(prefix="gpu-trial-"))
    peers.note_cut(work, data_of(results.content, "mixtral").get("model", {}))
    setting = Setting(dry_run=dry, device="emulated" if dry else "cuda", bundle=options.bundle_folder, fiddler=options.fiddler,
                      llama_bench=options.llama_bench, gguf=options.gguf, peers_python=options.peers_python)  # fmt: skip
    signal.signal(signal.SIGTERM, interrupt)
    runner = Runner(
        results, setting, work, options.out / "trial.log", 60 * options.minutes, bundle.environment(options.bundle_folder, work)
    )
    try:
        runner.run(chosen(options.only))
        results.content["ended"] = "all steps had their turn"
    except KeyboardInterrupt:
        results.content["ended"] = "interrupted"
    finally:
        results.content["seconds"] = round(time.time() - started, 1)
        results.save()
        shutil.rmtree(work, ignore_errors=True)
    counts = {}
    for entry in results.content["steps"]:
        counts[entry["status"]] = counts.get(entry["status"], 0) + 1
    print(f"{', '.join(f'{count} {status}' for status, count in counts.items())}; {results.path}")
    return 1 if {"failed", "timeout", "running"} & set(counts) else 0


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.list:
        for step in STEPS:
            print(f"{step.name:<18} {step.limit_s:>4.0f} s  {step.about}")
        return 0
    return collect(options) if options.bundle else run(options)
