"""Tables in Markdown from the file of a trial. The command line of tools/gpu_report.

    tools/gpu_report bench/results/DATE-GPU-gpu.json            into docs/performance.md, between the marks, and docs/gpu.svg
    tools/gpu_report FILE --out DIR                             DIR/gpu.md and DIR/gpu.svg; a dry run's file goes only there

Every speed stands beside a limit or beside another policy's. What a trial did not find out is said, not left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpu.bundle import REPOSITORY
from gpu.chart import draw
from gpu.engine import POLICIES
from gpu.limits import Limits, limits_of, scenarios_of
from gpu.results import DRY, WARNING, ResultsError, data_of, read, write_atomically

MARKS = ("<!-- gpu -->", "<!-- /gpu -->")
DOCUMENT = REPOSITORY / "docs/performance.md"
CHART = "gpu.svg"
MODELS = (("mixtral", "Mixtral-8x7B"), ("qwen3", "Qwen3-30B-A3B"))
FIRST_CELL = (32, 64)  # where all policies are compared
# balanced, in the first cell of Mixtral: times as fast as these
RATIO_TARGETS = (("cpu-experts", 2.0), ("static-layers", 2.0), ("expert-cache", 8.0), ("stream", 19.0))
RATE_TARGET = 3.0  # tokens/s
PEER_STEPS = ("published-policy", "offload")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}%"


class Speeds:
    """The scenarios of one model, by policy and cell."""

    def __init__(self, content: dict, step: str) -> None:
        self.model = data_of(content, step).get("model", {})
        self.entries = {(e["policy"], e["prompt"], e["for_gen"], e["batch"]): e for e in scenarios_of(content, step)}

    def cells(self, wanted) -> list[tuple[int, int, int]]:
        return sorted({key[1:] for key in self.entries if wanted(*key[1:])}, key=lambda cell: (cell[2], cell[0], cell[1]))

    def value(self, policy: str, cell: tuple[int, int, int], key: str) -> float | None:
        return self.entries.get((policy, *cell), {}).get(key)

    def rows(self, cells: list, key: str, best, digits: int = 2) -> list[list[str]]:
        rows = []
        for cell in cells:
            values = [self.value(policy, cell, key) for policy in POLICIES]
            top = best((v for v in values if v is not None), default=None)
            shown = [f"**{number(v, digits)}**" if v is not None and v == top else number(v, digits) for v in values]
            rows.append([f"{cell[0]} / {cell[1]}" + (f" x {cell[2]}" if cell[2] > 1 else ""), *shown])
        return rows


def optional_limits(content: dict) -> Limits | None:
    try:
        return limits_of(content)
    except (ResultsError, KeyError, IndexError, ZeroDivisionError):
        return None


# --- sections


def machine_section(content: dict) -> list[str]:
    machine = data_of(content, "environment").get("machine", {})
    gpu, cpu = machine.get("gpu", {}), machine.get("cpu", {})
    built = data_of(content, "programs").get("bundle", {}).get("commit")
    link = f"PCIe {gpu.get('pcie.link.gen.max', '?')} x{gpu.get('pcie.link.width.max', '?')}"
    facts = [content.get("gpu") or "no GPU", f"driver {gpu.get('driver_version', '?')}", link,
             f"{cpu.get('model', 'CPU unknown')}, {cpu.get('usable', '?')} cores",
             f"{(machine.get('ram_bytes') or 0) / 2**30:.0f} GiB RAM",
             f"{content['date']}", f"commit {(machine.get('commit') or built or '?')[:9]}"]  # fmt: skip
    return [", ".join(facts) + ".", ""]


def correctness_section(content: dict) -> list[str]:
    lines = []
    for test in data_of(content, "cuda-tests").get("tests", []):
        failed = test.get("failed", [])
        where = "on the device" if test.get("device") else "**on no device**"
        lines.append(f"- `{test['name']}` {where}: {test.get('ran', '?')} tests ran, {len(failed)} failed"
                     + (f" ({'; '.join(words.split(':')[0] for words in failed[:5])})" if failed else "") + ".")  # fmt: skip
    runs = data_of(content, "tokens").get("runs", [])
    if runs:
        same = sum(run["same"] for run in runs)
        lines.append(
            "- Greedy text of the demo model, a quarter of its experts on the device: "
            f"{same} of {len(runs)} runs gave the CPU's tokens."
        )
    return [*lines, ""] if lines else []


def limits_section(limits: Limits | None) -> list[str]:
    if limits is None:
        return ["Nothing was calibrated with a device, so nothing below stands beside a limit.", ""]
    header = ["plain read by the CPU, GB/s", "CPU slices", "link", "CPU and link together", "GPU slices"]
    rates = (limits.read_gbps, limits.cpu_gbps, limits.link_gbps, limits.joint_gbps, limits.gpu_gbps)
    waits = (1e6 * limits.handoff_p50_s, 1e6 * limits.handoff_p99_s)
    row = [number(value, 1) for value in (*rates, *waits)]
    about = "Calibrated with slices of Mixtral's experts in bf16:"
    return [about, "", *table([*header, "hand-over and back, us", "p99"], [row])]


def single_detail(speeds: Speeds, limits: Limits | None, cell: tuple[int, int, int]) -> list[str]:
    rows = []
    for policy in POLICIES:
        entry = speeds.entries.get((policy, *cell))
        if not entry or "decode_tokens_per_s" not in entry:
            continue
        rate, hits = entry["decode_tokens_per_s"], entry.get("hit_rate")
        memory = ceiling = None
        if limits and hits is not None:
            missing = (1 - hits) * speeds.model["expert_bytes_per_token"]
            memory, ceiling = missing * rate / 1e9, limits.decode_ceiling(speeds.model, hits)
        rows.append([policy, number(entry["ttft_s"]), number(1e3 * entry["inter_token_s"], 1), str(entry["gen"]),
                     percent(hits), number(rate), number(memory, 1), percent(memory / limits.joint_gbps if memory is not None else None),
                     number(ceiling), percent(rate / ceiling if ceiling else None)])  # fmt: skip
    about = f"{cell[0]} / {cell[1]} in detail; the ceiling is the roofline at a policy's own hits, from the calibrated rates:"
    header = ["policy", "TTFT s", "ms between tokens", "tokens generated", "hits", "decode tokens/s", "experts from RAM, GB/s",
              "of CPU and link together", "ceiling tokens/s", "of it"]  # fmt: skip
    return [about, "", *table(header, rows)]


def model_section(content: dict, step: str, title: str, limits: Limits | None) -> list[str]:
    speeds = Speeds(content, step)
    if not speeds.entries:
        return [f"### {title}", "", "No scenario came to its end.", ""]
    model = speeds.model
    cut = (
        "all layers"
        if model["layers"] == model["of_layers"]
        else f"**{model['layers']} of {model['of_layers']} layers** ({model.get('why_cut', '')})"
    )
    memory = f"{model['gpu_memory_gib']:.1f} GiB" if "gpu_memory_gib" in model else model["gpu_memory"]
    lines = [f"### {title}", "", f"{cut}, bf16, made-up weights, {memory} of GPU memory ({model['way']}).", ""]
    single = speeds.cells(lambda prompt, gen, batch: gen > 1 and batch == 1)
    if single:
        lines += ["Single batch, tokens/s from end to end (where a policy generated fewer tokens, from its TTFT and time between",
                  "tokens):", "",
                  *table(["in / out", *POLICIES], speeds.rows(single, "end_to_end_tokens_per_s", max)),
                  *single_detail(speeds, limits, single[0])]  # fmt: skip
    prompts = speeds.cells(lambda prompt, gen, batch: gen == 1)
    if prompts:
        rows = [[row[0].split(" ")[0], *row[1:]] for row in speeds.rows(prompts, "ttft_s", min)]
        lines += ["Long prompts, seconds to the first token:", "", *table(["in", *POLICIES], rows)]
    batches = speeds.cells(lambda prompt, gen, batch: batch > 1)
    if batches:
        lines += ["Batches (the engine has no beam search yet: sequences of their own, not beams), tokens/s from end to end:", "",
                  *table(["in / out x sequences", *POLICIES], speeds.rows(batches, "end_to_end_tokens_per_s", max))]  # fmt: skip
    return lines


def targets_section(content: dict) -> list[str]:
    """Of decoding, which does not depend on how many tokens a policy was given to generate."""
    speeds, cell = Speeds(content, "mixtral"), (*FIRST_CELL, 1)
    rate = lambda policy: speeds.value(policy, cell, "decode_tokens_per_s")  # noqa: E731
    ours = rate("balanced")
    if ours is None:
        return []
    whole = speeds.model["layers"] == speeds.model["of_layers"]
    rows = [["more than 3 tokens/s from end to end", number(end := speeds.value("balanced", cell, "end_to_end_tokens_per_s")),
             ("yes" if end > RATE_TARGET else "**no**") if whole else "a cut model cannot say"]]  # fmt: skip
    for policy, target in RATIO_TARGETS:
        other = rate(policy)
        got = ours / other if other else None
        rows.append(
            [
                f"at least {target:.0f}x `{policy}`, decoding",
                f"{got:.1f}x" if got else "not measured",
                "" if got is None else "yes" if got >= target else "**no**",
            ]
        )
    return [f"### Targets: `balanced`, {cell[0]} / {cell[1]}", "", *table(["target", "measured", "reached"], rows)]


def peers_section(content: dict) -> list[str]:
    speeds, rows = Speeds(content, "mixtral"), []
    for step in PEER_STEPS:
        data = data_of(content, step)
        about = data.get("about", {})
        same = about.get("layers") == speeds.model.get("layers")
        for result in data.get("results", []):
            ours = speeds.value("balanced", (result["prompt"], result["for_gen"], 1), "end_to_end_tokens_per_s")
            ratio = f"{ours / result['end_to_end_tokens_per_s']:.1f}x" if ours and same else "" if same else "another cut"
            rows.append([about.get("what", step), str(about.get("layers", "?")), f"{result['prompt']} / {result['for_gen']}",
                         number(result["ttft_s"]), number(1e3 * result["inter_token_s"], 1), number(result["end_to_end_tokens_per_s"]), ratio])  # fmt: skip
    for result in data_of(content, "llama-bench").get("results", []):
        work = f"prefill {result.get('n_prompt')}" if result.get("n_prompt") else f"decode {result.get('n_gen')}"
        rows.append(
            [f"llama.cpp, {result.get('model_type', '?')}, experts in RAM", "", work, "", "", number(result.get("avg_ts")), ""]
        )
    if not rows:
        return []
    return ["### Others on the same machine", "", "PyTorch: made-up weights of the same geometry, the same GPU memory. llama.cpp: the file it was given, as it is.", "",
            *table(["what", "layers", "in / out", "TTFT s", "ms between tokens", "tokens/s", "`balanced` is times"],
                   rows)]  # fmt: skip


def kernels_section(content: dict) -> list[str]:
    """Whatever figures `bench --kernels` gives, a row a kernel."""
    kernels = data_of(content, "kernels").get("result", {}).get("kernels", [])
    header = list(
        dict.fromkeys(key for kernel in kernels for key, value in kernel.items() if isinstance(value, (str, int, float)))
    )
    shown = lambda value: number(value, 1) if isinstance(value, float) else str(value)  # noqa: E731
    rows = [[shown(kernel.get(key, "")) for key in header] for kernel in kernels]
    return ["### Operations of the device", "", *table(header, rows)] if rows else []


def gaps_section(content: dict) -> list[str]:
    gaps = [entry for entry in content["steps"] if entry["status"] != "done"]
    lost = sum("error" in scenario for entry in content["steps"] for scenario in entry["data"].get("scenarios", []))
    lines = [
        f"- `{entry['name']}`: {entry['status']}: {entry['reason'].splitlines()[0] if entry['reason'] else 'no reason'}"
        for entry in gaps
    ]
    lines += [f"- {lost} scenarios failed; the file has their reasons."] if lost else []
    return ["What this trial did not find out:", "", *lines, ""] if lines else []


def render(content: dict) -> str:
    limits = optional_limits(content)
    lines = [f"**{WARNING}**", ""] if content["kind"] == DRY else []
    lines += (
        machine_section(content)
        + correctness_section(content)
        + limits_section(limits)
        + [f"![tokens/s under every policy]({CHART})", ""]
    )
    for step, title in MODELS:
        lines += model_section(content, step, title, limits)
    lines += targets_section(content) + peers_section(content) + kernels_section(content) + gaps_section(content)
    return "\n".join(lines).rstrip() + "\n"


def insert(document: str, text: str, name: str) -> str:
    before, first, rest = document.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not first or not last:
        raise ResultsError(f"{name}: expected the lines {MARKS[0]} and {MARKS[1]}")
    return f"{before}{first}\n\n{text}\n{last}{after}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gpu_report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write gpu.md and gpu.svg there, not into docs/")
    options = parser.parse_args(arguments)
    elsewhere = options.out is not None and REPOSITORY / "docs" not in (options.out.resolve(), *options.out.resolve().parents)
    try:
        content = read(options.results, dry_too=elsewhere)
        text, chart = render(content), draw(content)
        folder = options.out or DOCUMENT.parent
        if options.out:
            write_atomically(folder / "gpu.md", text)
        else:
            write_atomically(DOCUMENT, insert(DOCUMENT.read_text(), text, str(DOCUMENT)))
        write_atomically(folder / CHART, chart)
    except (ResultsError, OSError) as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        return 1
    return 0
