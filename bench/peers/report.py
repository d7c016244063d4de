"""From the JSON of race.py to one table in Markdown.

    python report.py RESULTS.json [--into docs/performance.md]

With --into the table replaces what is between the lines `<!-- peers -->` and `<!-- /peers -->` of that file.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from geometry import PeersError

MARKS = ("<!-- peers -->", "<!-- /peers -->")
FEWEST_TOKENS = 16  # a decode of fewer tokens is not worth a line
PHASES = ("decode", "prefill")
# What prefill is held against: the fastest arithmetic for the weights that the machine's limits name.
ARITHMETIC = {"bf16": ("bf16_gflops", "f32_gflops")}
ARITHMETIC_OF_QUANTIZED = ("int8_gops", "bf16_gflops", "f32_gflops")


def spread(values: list[float]) -> dict:
    values = sorted(values)
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": quartiles[1], "quartiles": [quartiles[0], quartiles[2]], "samples": len(values)}


def bytes_per_step(model: dict, format: str, batch: int) -> float | None:
    """Weights that a step of so many sequences reads, if the router chooses evenly."""
    about = model["formats"].get(format)
    if about is None:
        return None
    idle = (1 - model["experts_per_token"] / model["num_experts"]) ** batch
    return about["dense_bytes"] + about["expert_bytes"] * (1 - idle)


def limit_name(phase: str, format: str, limits: dict) -> str | None:
    names = ("read_gbps",) if phase == "decode" else ARITHMETIC.get(format, ARITHMETIC_OF_QUANTIZED)
    return next((name for name in names if name in limits), None)


def summarize(content: dict) -> list[dict]:
    """One entry per work and phase, with the figures of every engine."""
    # [work][engine][run, round] = measurements of that visit
    works: dict[tuple, dict[str, dict[tuple, dict]]] = defaultdict(lambda: defaultdict(dict))
    for visit in content["visits"]:
        for measured in visit["measured"]:
            work = (visit["geometry"], visit["format"], measured["threads"], tuple(measured["case"]))
            works[work][visit["engine"]][visit["run"], visit["round"]] = measured
    # Arithmetic is the same whatever the weights are stored in.
    flops = {
        (geometry, case): measured["flops_per_prompt_token"]
        for (geometry, _, _, case), engines in works.items()
        for measured in engines.get("fiddler", {}).values()
    }
    summary = []
    for (geometry, format, threads, case), engines in works.items():
        for phase in PHASES:
            if phase == "decode" and case[1] < FEWEST_TOKENS:
                continue  # it was there for its prefill
            work = {"geometry": geometry, "format": format, "threads": threads, "case": list(case), "phase": phase}
            model, ours = content["models"][geometry], engines.get("fiddler", {})
            figures = {
                name: figures_of(model, work, flops.get((geometry, case)), visits, ours) for name, visits in engines.items()
            }
            summary.append(work | {"engines": figures})
    return summary


def figures_of(model: dict, work: dict, flops: float | None, visits: dict[tuple, dict], ours: dict[tuple, dict]) -> dict:
    """Of one engine. Ratios compare visits of the same round."""
    phase, batch = work["phase"], work["case"][2]
    rates = [rate for measured in visits.values() for rate in measured[phase]]
    figures = {"tokens_per_s": spread(rates)}

    per_token = flops
    if phase == "decode":
        step = [measured["bytes_per_step"] for measured in visits.values() if "bytes_per_step" in measured]
        total = statistics.median(step) if step else bytes_per_step(model, work["format"], batch)
        per_token = total / batch if total else None
    name = limit_name(phase, work["format"], next(iter(visits.values()))["limits"])
    if per_token:
        unit = "gbps" if phase == "decode" else "gflops"
        figures[unit] = figures["tokens_per_s"]["median"] * per_token / 1e9
        if name:
            shares = [
                100 * statistics.median(measured[phase]) * per_token / 1e9 / measured["limits"][name]
                for measured in visits.values()
            ]
            figures["percent_of_limit"] = statistics.median(shares)
    if name:
        figures["limit"] = {name: statistics.median(measured["limits"][name] for measured in visits.values())}
    both = [key for key in visits if key in ours]
    if both and ours is not visits:
        ratios = [statistics.median(ours[key][phase]) / statistics.median(visits[key][phase]) for key in both]
        figures["fiddler_is_times"] = spread(ratios)
    return figures


# --- the table


def describe_work(entry: dict) -> str:
    prompt, gen, batch = entry["case"]
    sequences = "" if batch == 1 else f", {batch} sequences"
    return f"prefill {prompt}{sequences}" if entry["phase"] == "prefill" else f"decode at {prompt}{sequences}"


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def cell(figures: dict | None) -> str:
    if figures is None:
        return "-"
    text = number(figures["tokens_per_s"]["median"])
    if "percent_of_limit" in figures:
        rate, unit = (figures["gbps"], "GB/s") if "gbps" in figures else (figures["gflops"], "GFLOP/s")
        text += f" ({number(rate)} {unit}, {figures['percent_of_limit']:.0f}%)"
    if "fiddler_is_times" in figures:
        low, high = figures["fiddler_is_times"]["quartiles"]
        text += f" **{figures['fiddler_is_times']['median']:.2f}x** [{low:.2f}-{high:.2f}]"
    return text


def table(content: dict) -> str:
    summary = summarize(content)
    if not summary:
        raise PeersError("the results have no measurements")
    names = list(dict.fromkeys(name for entry in summary for name in entry["engines"]))
    order = {format: i for i, format in enumerate(("bf16", "q8_0", "q4_0", "q4_k_m"))}
    rows = sorted(
        summary,
        key=lambda e: (e["geometry"], order.get(e["format"], 9), -e["threads"], PHASES.index(e["phase"]), e["case"]),
    )
    lines = [f"| model | weights | threads | work | {' | '.join(names)} |", "|---|---|---|---|" + "---|" * len(names)]
    for entry in rows:
        cells = [cell(entry["engines"].get(name)) for name in names]
        work = [entry["geometry"], entry["format"], str(entry["threads"]), describe_work(entry)]
        lines.append(f"| {' | '.join(work + cells)} |")
    return "\n".join([*lines, "", notes(content, summary)]) + "\n"


def notes(content: dict, summary: list[dict]) -> str:
    machine = content["machine"]
    engines: dict[str, list[str]] = defaultdict(list)  # every version that raced, in the order of the runs
    for run in content["runs"].values():
        for name, about in run["engines"].items():
            words = [about.get("package"), about.get("version") or about.get("program"), about.get("commit", "")[:9]]
            version = " ".join(word for word in words if word)
            if version not in engines[name]:
                engines[name].append(version)
    limits: dict[str, list[float]] = defaultdict(list)
    for entry in summary:
        for figures in entry["engines"].values():
            for name, value in figures.get("limit", {}).items():
                limits[f"{name} with {entry['threads']} threads"].append(value)
    raced = "; ".join(f"{name}: {', '.join(versions)}" for name, versions in engines.items())
    ranges = "; ".join(f"{name} {min(values):.0f}-{max(values):.0f}" for name, values in sorted(limits.items()))
    return (
        f"{machine['cpu']}, {machine['cores']} cores. Medians in tokens/s; in brackets what that reads or computes, and its "
        f"share of the limit measured beside it. Bold: Fiddler's rate divided by the peer's in the same round, median "
        f"[quartiles]. Limits met: {ranges}. {raced}."
    )


def insert(document: str, text: str, name: str) -> str:
    before, first, rest = document.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise PeersError(f"{name}: expected the lines {MARKS[0]} and {MARKS[1]}")
    return f"{before}{first}\n\n{text}\n{last}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    try:
        text = table(json.loads(options.results.read_text()))
        if options.into:
            options.into.write_text(insert(options.into.read_text(), text, str(options.into)))
        else:
            print(text, end="")
    except (PeersError, OSError, ValueError, KeyError) as error:
        sys.exit(f"report.py: {options.results}: {error!r}" if isinstance(error, KeyError) else f"report.py: {error}")


if __name__ == "__main__":
    main()
