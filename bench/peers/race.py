"""The race: Fiddler and its peers on the same weights, one after the other, round after round.

    python race.py DIR --format bf16 [--threads 2,1] [--rounds 5]     DIR is what export.py wrote
    python race.py --quick                                            all of it on a tiny model, in seconds

Every visit of an engine loads the model, and for each case measures the limits of the machine and then the work. After
every visit everything known is written to --results; running again with the same file adds to it, and report.py makes
the table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from engines import Case, Fiddler, Machine, PackagePeer, ProgramPeer, size_of
from geometry import REPOSITORY, PeersError, load
from report import summarize

ENGINES = ("fiddler", "llama.cpp", "llama.cpp-best", "ik_llama.cpp-best")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Results:
    """The JSON file, written whole after every visit."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self.content = {"kind": "peers", "machine": machine.describe(), "models": {}, "runs": {}, "visits": []}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content.get("kind") != "peers":
                raise PeersError(f"{path}: expected results of race.py")

    def save(self) -> None:
        self.content["summary"] = summarize(self.content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".tmp")
        unfinished.write_text(json.dumps(self.content, indent=1) + "\n")
        unfinished.rename(self.path)


class Race:
    def __init__(self, folder: Path, format: str, engines: list, probe: Fiddler, results: Results) -> None:
        manifest_file = folder / "export.json"
        if not manifest_file.exists():
            raise PeersError(f"{folder}: no export.json: run export.py first")
        self.manifest = json.loads(manifest_file.read_text())
        self.folder, self.format, self.engines, self.probe, self.results = folder, format, engines, probe, results
        self.machine = Machine()
        self.geometry = self.manifest["geometry"]
        self.run = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def start(self, options: argparse.Namespace) -> None:
        engines, able = {}, []
        for engine in self.engines:
            try:
                engines[engine.name] = engine.about()
                able.append(engine)
            except (PeersError, OSError) as error:
                say(f"race.py: {error}; left out")
        if not able:
            raise PeersError("no engine is there")
        self.engines = able
        content = self.results.content
        known = content["models"].setdefault(self.geometry, self.manifest)
        known["formats"] |= self.manifest["formats"]
        settings = {"threads": options.threads, "repeat": options.repeat, "rounds": options.rounds}
        content["runs"][self.run] = {"geometry": self.geometry, "format": self.format, "engines": engines} | settings

    def visit(self, engine, round: int, cases: list[Case], threads: list[int], repeat: int) -> None:
        for file in self.folder.iterdir():
            if file != engine.file(self.folder, self.format):
                self.machine.forget(file)
        row = {"run": self.run, "round": round, "engine": engine.name, "load_average": os.getloadavg()[0]}
        visit = row | {"geometry": self.geometry, "format": self.format, "measured": []}
        self.results.content["visits"].append(visit)
        started = time.monotonic()
        try:
            with engine.open(self.folder, self.format, self.machine) as session:
                visit["about"] = session.about()
                visit["open_s"] = time.monotonic() - started
                for count in threads:
                    for case in cases:
                        self.measure(visit, session, case, count, repeat)
        except (PeersError, OSError) as error:
            visit["error"] = str(error)
            say(f"race.py: {error}")

    def measure(self, visit: dict, session, case: Case, threads: int, repeat: int) -> None:
        before = self.probe.limits(threads)
        measured = session.measure(case, threads, repeat)
        if "limits" not in measured:  # Fiddler measures them itself, in turn with its work
            after = self.probe.limits(threads)
            measured["limits"] = {key: (value + after[key]) / 2 for key, value in before.items()}
        measured = {"threads": threads, "case": list(case)} | measured
        visit["measured"].append(measured)
        shown = {phase: f"{sorted(measured[phase])[len(measured[phase]) // 2]:.1f}" for phase in ("prefill", "decode")}
        say(f"  {visit['engine']:<18} {threads} threads {str(case):<12} prefill {shown['prefill']:>8} decode "
            f"{shown['decode']:>7} tokens/s   (read {measured['limits']['read_gbps']:.1f} GB/s)")  # fmt: skip

    def go(self, options: argparse.Namespace) -> None:
        self.start(options)
        if (load := os.getloadavg()[0]) > 0.5:
            say(f"race.py: load average {load:.1f}: something else runs here, and the peers' threads suffer most from it")
        for round in range(1, options.rounds + 1):
            say(f"{self.geometry} {self.format}, round {round} of {options.rounds}")
            started = time.monotonic()
            for engine in self.engines:
                self.visit(engine, round, options.cases, options.threads, options.repeat)
                self.results.save()
            say(f"  that took {(time.monotonic() - started) / 60:.1f} minutes")


def engine_of(name: str, options: argparse.Namespace):
    if name == "fiddler":
        return Fiddler(options.fiddler, {k: Path(v) for k, v in options.fiddler_model.items()}, options.fiddler_args)
    library, best = name.removesuffix("-best"), name.endswith("-best")
    program = {"llama.cpp": options.llama_bench, "ik_llama.cpp": options.ik_llama_bench}[library]
    return ProgramPeer(library, best, program) if program else PackagePeer(library, best)


def cases_of(text: str) -> list[Case]:
    cases = []
    for item in text.split(","):
        numbers = [int(number) for number in item.split("/")]
        cases.append(Case(*numbers, *[1] * (3 - len(numbers))))
    return cases


def default_results(machine: Machine) -> Path:
    about = machine.describe()
    name = re.sub(r"[^a-z0-9]+", "-", f"{about['cpu']} {about['cores']}c".lower()).strip("-")
    return REPOSITORY / "bench/results" / f"{datetime.now(timezone.utc):%Y-%m-%d}-{name}-peers.json"


class KeyValue(argparse.Action):
    """Collects FORMAT=VALUE."""

    def __call__(self, parser, options, text, option_string=None) -> None:
        key, equals, value = text.partition("=")
        if not equals:
            parser.error(f"{option_string}: expected FORMAT=VALUE, got {text}")
        setattr(options, self.dest, {**getattr(options, self.dest), key: value})


def parse() -> argparse.Namespace:
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--format", default="bf16", help="bf16, q8_0, q4_0 or q4_k_m (default: %(default)s)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="default: %(default)s; also ik_llama.cpp")
    parser.add_argument("--cases", type=cases_of, default="128/32,512/8",
                        help="PROMPT/GENERATE[/SEQUENCES], comma-separated (default: %(default)s)")  # fmt: skip
    parser.add_argument("--threads", type=numbers, default="2,1", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3, help="measurements of a case in a visit (default: 3)")
    parser.add_argument("--results", type=Path, help="default: bench/results/DATE-MACHINE-peers.json")
    parser.add_argument("--fiddler", type=Path, default=REPOSITORY / "build/release/fiddler")
    parser.add_argument("--fiddler-model", action=KeyValue, default={}, metavar="FORMAT=PATH",
                        help="default: DIR/hf for bf16, DIR/FORMAT.gguf for the others")  # fmt: skip
    parser.add_argument("--fiddler-args", action=KeyValue, default={}, metavar="FORMAT=ARGUMENTS")
    parser.add_argument("--llama-bench", type=Path, help="a program to run instead of llama-cpp-python")
    parser.add_argument("--ik-llama-bench", type=Path, help="a program to run instead of ik-llama-cpp-python")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round; nothing is kept")
    options = parser.parse_args()
    if not options.quick and not options.folder:
        parser.error("expected DIR, the folder that export.py wrote")
    if unknown := set(options.engines.split(",")) - {*ENGINES, "ik_llama.cpp"}:
        parser.error(f"--engines: no such engine: {', '.join(sorted(unknown))}")
    return options


def race(options: argparse.Namespace) -> Results:
    engines = [engine_of(name, options) for name in options.engines.split(",")]
    results = Results(options.results or default_results(Machine()), Machine())
    Race(options.folder, options.format, engines, Fiddler(options.fiddler), results).go(options)
    return results


def quick(options: argparse.Namespace) -> None:
    from export import Exporter  # needs numpy

    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder) / "tiny-mixtral"
        formats = ["hf", "bf16"] if options.engines != "fiddler" else ["hf"]
        Exporter(load("tiny-mixtral"), 1, options.folder, 2).export(formats)
        options.cases, options.threads, options.rounds, options.repeat = cases_of("16/4,32/2/2"), [1], 2, 1
        options.results = options.results or Path(folder) / "results.json"
        results = race(options)
        failed = [visit["error"] for visit in results.content["visits"] if "error" in visit]
        if failed:
            raise PeersError(failed[0])
        say(f"quick: {len(results.content['visits'])} visits of {size_of(options.folder / 'hf') / 1e6:.0f} MB, all well")


def main() -> None:
    options = parse()
    try:
        quick(options) if options.quick else race(options)
    except (PeersError, OSError) as error:
        sys.exit(f"race.py: {error}")


if __name__ == "__main__":
    main()
