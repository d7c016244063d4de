"""The simulator against measurements: what `fiddler simulate` predicts for the scenarios of a trial, on the hardware as
the trial calibrated it, beside what was measured. The command line of tools/sim_vs_real."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpu.bundle import REPOSITORY
from gpu.engine import config_of_cut
from gpu.limits import hardware_of, scenarios_of
from gpu.results import ResultsError, data_of, read

MODEL_STEPS = ("mixtral", "qwen3")
MEDIAN_LIMIT = 0.3  # of the error of a file's scenarios; beyond it the simulator does not describe that machine


@dataclass(frozen=True)
class Comparison:
    """`predicted` and `measured`: seconds between tokens; for scenarios that generate one token, to the first."""

    model: str
    scenario: dict
    predicted: float
    measured: float
    predicted_hits: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def simulate(fiddler: Path, model: Path, hardware: Path, memory: str, entry: dict) -> dict:
    kind = ["--scenario", "batch", "--batch", str(entry["batch"])] if entry["batch"] > 1 else []
    if entry["gen"] == 1:
        kind = ["--scenario", "prefill"]
    else:
        kind += ["--gen", str(entry["gen"])]
    command = [fiddler, "simulate", model, "--hardware", hardware, "--gpu-memory", memory, "--policy", entry["policy"],
               "--prompt", str(entry["prompt"]), "--json", *kind]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ResultsError(f"simulate {entry['policy']} {entry['prompt']}/{entry['gen']}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def compare(fiddler: Path, content: dict, name: str) -> list[Comparison]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        hardware = Path(folder) / "hardware.json"
        hardware.write_text(json.dumps(hardware_of(content, name)))
        for step in MODEL_STEPS:
            about = data_of(content, step).get("model")
            if not about:
                continue
            model = Path(folder) / f"{about['geometry']}-{about['layers']}l.json"
            model.write_text(json.dumps(config_of_cut(about["geometry"], about["layers"])))
            for entry in scenarios_of(content, step):
                said = simulate(fiddler, model, hardware, about["gpu_memory"], entry)
                key = "ttft_s" if entry["gen"] == 1 else "inter_token_s"
                rows.append(Comparison(model.stem, entry, said[key], entry[key], said["hit_rate"]))
    return rows


def table(rows: list[Comparison]) -> str:
    lines = [
        "| model | policy | in / out x batch | predicted ms | measured ms | error | hits predicted, measured |",
        "|" + "---|" * 7,
    ]
    for row in rows:
        entry = row.scenario
        hits = f"{100 * row.predicted_hits:.0f}%, " + (
            f"{100 * entry['hit_rate']:.0f}%" if entry.get("hit_rate") is not None else "?"
        )
        lines.append(f"| {row.model} | {entry['policy']} | {entry['prompt']} / {entry['gen']} x {entry['batch']} "
                     f"| {1e3 * row.predicted:.1f} | {1e3 * row.measured:.1f} | {100 * row.error:+.0f}% | {hits} |")  # fmt: skip
    return "\n".join(lines)


def median_error(rows: list[Comparison]) -> float:
    return statistics.median(abs(row.error) for row in rows)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sim_vs_real", description=__doc__)
    parser.add_argument("fiddler", type=Path)
    parser.add_argument("results", type=Path, nargs="*", help="default: bench/results/*-gpu.json")
    parser.add_argument("--limit", type=float, default=MEDIAN_LIMIT, help="of a file's median error (default: %(default)s)")
    options = parser.parse_args(arguments)
    files = options.results or sorted((REPOSITORY / "bench/results").glob("*-gpu.json"))
    if not files:
        print("no measurements on a GPU are committed yet (bench/results/*-gpu.json)")
        return 0
    beyond = False
    try:
        for file in files:
            rows = compare(options.fiddler, read(file), file.stem)
            if not rows:
                raise ResultsError(f"{file}: no scenario came to its end")
            error = median_error(rows)
            beyond |= error > options.limit
            print(
                f"{file.name}: median error {100 * error:.0f}% of {len(rows)} scenarios; the limit is {100 * options.limit:.0f}%\n"
            )
            print(table(rows), end="\n\n")
    except (ResultsError, KeyError) as error:
        print(f"sim_vs_real: {error}", file=sys.stderr)
        return 1
    return 1 if beyond else 0
