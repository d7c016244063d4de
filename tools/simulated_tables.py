#!/usr/bin/env python3
"""Simulates the benchmark of the Fiddler paper under every policy: docs/simulated.md and docs/simulated.svg.

usage: simulated_tables.py PATH-OF-FIDDLER [OUT-FOLDER]        by default docs/ of the repository this script is in
Virtual time on hardware that is not at hand (src/sim/virtual_run.h): nothing here was measured. Exits 1 if `balanced` is
below 95% of its ceiling anywhere, or slower than another policy by more than 1%. Standard library only.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

REPOSITORY = Path(__file__).resolve().parent.parent
POLICIES = ("balanced", "fiddler", "expert-cache", "stream", "static-layers", "cpu-experts")
COLOURS = ("#1f6feb", "#d1742f", "#2e9e5b", "#a04ecb", "#8a8f98", "#c9a227")
HARDWARE = ("rtx6000-xeon6126", "rtx4090-ddr5", "h100-16vcpu")
MODEL, MEMORY = "mixtral-8x7b", "24GiB"
INPUTS, OUTPUTS = (32, 64, 128, 256), (64, 128, 256, 512)
PROMPTS, WIDTHS = (512, 1024, 2048, 4096), (4, 8, 12, 16)
BEAM_INPUT, BEAM_OUTPUT = 32, 64
ONE_CHUNK = 4096  # prompts in one piece, as the systems that are compared do it
PAPER_INPUTS, PAPER_OUTPUTS = (16, 32, 64, 128), (16, 32, 64, 128, 256, 512)
PAPER_MEMORY = "22.8GiB"  # 56 experts, as in the paper


class Simulator:
    def __init__(self, binary):
        self.binary = binary

    def __call__(self, run):
        command = [self.binary, "simulate", MODEL, "--json", "--chunk", str(ONE_CHUNK), *run]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
        return json.loads(done.stdout)


def single(hardware, policy, tokens_in, tokens_out, memory=MEMORY):
    return ("--hardware", hardware, "--gpu-memory", memory, "--policy", policy, "--prompt", str(tokens_in), "--gen",
            str(tokens_out))


def prefill(hardware, policy, tokens):
    return ("--hardware", hardware, "--gpu-memory", MEMORY, "--policy", policy, "--scenario", "prefill", "--prompt", str(tokens))


def beam(hardware, policy, width):
    return (*single(hardware, policy, BEAM_INPUT, BEAM_OUTPUT), "--scenario", "beam", "--beam", str(width))


def paper(policy, tokens_in, tokens_out, file):
    hardware = str(REPOSITORY / "bench/hardware" / file)
    return (*single(hardware, policy, tokens_in, tokens_out, PAPER_MEMORY), "--serial")


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def bold_best(values, form, best=max):
    top = form(best(values))
    return [f"**{form(v)}**" if form(v) == top else form(v) for v in values]


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def means(runs, hardware):
    return [mean(runs[single(hardware, p, i, o)]["tokens_per_s"] for i in INPUTS for o in OUTPUTS) for p in POLICIES]


def hardware_section(runs, hardware):
    lines = [f"## {hardware}, simulated", "", "Single batch, tokens/s from the prompt's arrival to the last token (simulated):", ""]
    rows = []
    for i in INPUTS:
        for o in OUTPUTS:
            cells = [runs[single(hardware, p, i, o)] for p in POLICIES]
            rows.append([f"{i} / {o}", *bold_best([c["tokens_per_s"] for c in cells], number),
                         f"{100 * cells[0]['hit_rate']:.0f}%", f"{cells[0]['percent_of_ceiling']:.1f}%"])
    rows.append(["mean", *bold_best(means(runs, hardware), number), "", ""])
    lines += table(["in / out", *POLICIES, "hits of balanced", "its share of its ceiling"], rows)

    lines += ["128 / 512 in detail (simulated):", ""]
    rows = []
    for policy in POLICIES:
        r = runs[single(hardware, policy, 128, 512)]
        shares = r["generation"]["time_shares"]
        rows.append([policy, f"{r['ttft_s']:.2f}", f"{1000 * r['inter_token_s']:.0f}", f"{100 * r['hit_rate']:.0f}%",
                     number(r["ceiling_tokens_per_s"]), f"{r['percent_of_ceiling']:.0f}%",
                     *(f"{100 * shares[side]:.0f}%" for side in ("cpu", "gpu", "link", "dram"))])
    lines += table(["policy", "TTFT s", "ms between tokens", "hits", "ceiling tokens/s", "of it", "CPU busy", "GPU", "link", "DRAM"], rows)

    for title, key, values, form in (
            ("Long prompts in one chunk, seconds to the first token (simulated):", "in", PROMPTS, lambda p, n: prefill(hardware, p, n)),
            (f"Beams, {BEAM_INPUT} / {BEAM_OUTPUT}, seconds from end to end (simulated):", "width", WIDTHS, lambda p, n: beam(hardware, p, n))):
        rows = []
        for value in values:
            cells = [runs[form(p, value)] for p in POLICIES]
            rows.append([str(value), *bold_best([c["seconds"] for c in cells], number, min),
                         f"{cells[0]['percent_of_ceiling']:.1f}%"])
        lines += [title, "", *table([key, *POLICIES, "balanced: of its ceiling"], rows)]
    return lines


def paper_section(runs):
    grid = [(i, o) for i in PAPER_INPUTS for o in PAPER_OUTPUTS]
    rate = lambda policy, i, o, file: runs[paper(policy, i, o, file)]["tokens_per_s"]
    pinned, pageable = "fiddler-paper-env1.json", "fiddler-paper-env1-pageable.json"
    overall = {(p, f): mean(rate(p, i, o, f) for i, o in grid) for p in ("fiddler", "expert-cache", "stream") for f in (pinned, pageable)}
    slower = lambda p, f: f"{overall['fiddler', pinned] / overall[p, f]:.1f}x"
    rows = []
    for name, published, got in (("fiddler, 16 / 512, tokens/s", 3.25, rate("fiddler", 16, 512, pinned)),
                                 ("fiddler, 128 / 512, tokens/s", 4.2, rate("fiddler", 128, 512, pinned)),
                                 ("fiddler, mean of 24 cells, tokens/s", 2.5, overall["fiddler", pinned])):
        rows.append([name, str(published), f"{got:.2f}", f"{100 * (got / published - 1):+.0f}%"])
    rows.append(["Mixtral-offloading (`expert-cache`), slower than fiddler", "8.2-10.1x",
                 f"{slower('expert-cache', pageable)} (copies of 70 ms), {slower('expert-cache', pinned)} (40 ms)", ""])
    rows.append(["DeepSpeed-MII (`stream`), slower than fiddler", "19.4-22.5x",
                 f"{slower('stream', pinned)} (copies of 40 ms), {slower('stream', pageable)} (70 ms)", ""])
    return ["## The published figures, simulated", "",
            "The paper's first machine (Quadro RTX 6000 24 GB, Xeon Gold 6126) by the constants of its published code: 7 ms a token and",
            "expert on the CPU, copies of 40 ms, everything one after the other (`--serial`, `bench/hardware/`); 56 of 256 experts fit.", "",
            *table(["", "published", "simulated", "off by"], rows),
            "All within 30% but 128 / 512 (Mixtral-offloading with copies of 70 ms). What the constants cannot explain:",
            "- 128 / 512 at 4.2 tokens/s is above what they allow: with the 25.2% hits that were reported, 64 experts a token cost",
            "  64 x 0.748 x 7 ms = 335 ms, 2.98 tokens/s without anything else. The machine's memory reads an expert in 3.4 ms: 7 ms is what",
            "  the threshold was set to, not what the CPU took. With 4.1 ms the cell comes out as published, but 16 / 512 at 4.3 instead of",
            "  3.25: no one speed explains both, as a shorter prompt costs less.",
            "- Made-up routing hits 20-21% with 56 of 256 experts instead of the 25.2% reported: popularity differs more between the",
            "  made-up texts than between the real ones. That is 5% of a token's time.",
            "- Mixtral-offloading is further behind than its copies make it: nearer to the 70 ms of memory that is not pinned.",
            "- The simulation knows no Python, no 770 blocking reads a token and no allocation: it flatters all three alike.", ""]


def chart(runs):
    width, height, left, top, bottom = 760, 380, 60, 50, 70
    group = (width - left - 20) / len(HARDWARE)
    bar = group * 0.8 / len(POLICIES)
    largest = max(max(means(runs, h)) for h in HARDWARE)
    y = lambda v: height - bottom - (height - top - bottom) * v / largest
    text = lambda x, at, words, anchor="middle": f'<text x="{x:.1f}" y="{at:.1f}" text-anchor="{anchor}" fill="#444">{words}</text>'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             text(left, 20, f"SIMULATED, not measured: {MODEL} bf16, {MEMORY} of GPU memory, mean tokens/s of 16 single-batch cells", "start")]
    step = 2 if largest < 14 else 5
    for value in range(0, int(largest) + 1, step):
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e4e4e4"/>')
        parts.append(text(left - 8, y(value) + 4, value, "end"))
    for g, hardware in enumerate(HARDWARE):
        x = left + g * group + group * 0.1
        for p, value in enumerate(means(runs, hardware)):
            parts.append(f'<rect x="{x + p * bar:.1f}" y="{y(value):.1f}" width="{bar - 2:.1f}" height="{height - bottom - y(value):.1f}" fill="{COLOURS[p]}"/>')
            parts.append(text(x + (p + 0.5) * bar - 1, y(value) - 4, f"{value:.1f}"))
        parts.append(text(x + group * 0.4, height - bottom + 18, hardware))
    for p, policy in enumerate(POLICIES):
        x = left + p * (width - left - 20) / len(POLICIES)
        parts.append(f'<rect x="{x:.1f}" y="{height - 30}" width="10" height="10" fill="{COLOURS[p]}"/>')
        parts.append(text(x + 15, height - 21, policy, "start"))
    return "\n".join(parts + ["</svg>"]) + "\n"


def check(runs):
    """Cells in which balanced is not what it promises."""
    wrong = []
    cells = [form for h in HARDWARE for form in
             [lambda p, h=h, i=i, o=o: single(h, p, i, o) for i in INPUTS for o in OUTPUTS] +
             [lambda p, h=h, n=n: prefill(h, p, n) for n in PROMPTS] + [lambda p, h=h, w=w: beam(h, p, w) for w in WIDTHS]]
    lowest, closest = 100.0, 1e9
    for cell in cells:
        balanced = runs[cell("balanced")]
        lowest = min(lowest, balanced["percent_of_ceiling"])
        if balanced["percent_of_ceiling"] < 95:
            wrong.append(f"{' '.join(cell('balanced'))}: {balanced['percent_of_ceiling']:.1f}% of the ceiling")
        for policy in POLICIES[1:]:
            ratio = runs[cell(policy)]["seconds"] / balanced["seconds"]
            closest = min(closest, ratio)
            if ratio < 0.99:
                wrong.append(f"{' '.join(cell(policy))}: {1 / ratio:.3f}x as fast as balanced")
    return wrong, lowest, closest, len(cells)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.split("\n")[2])
    out = Path(sys.argv[2]) if len(sys.argv) == 3 else REPOSITORY / "docs"
    wanted = []
    for p in POLICIES:
        for h in HARDWARE:
            wanted += [single(h, p, i, o) for i in INPUTS for o in OUTPUTS]
            wanted += [prefill(h, p, n) for n in PROMPTS] + [beam(h, p, w) for w in WIDTHS]
    for p in ("fiddler", "expert-cache", "stream"):
        for file in ("fiddler-paper-env1.json", "fiddler-paper-env1-pageable.json"):
            wanted += [paper(p, i, o, file) for i in PAPER_INPUTS for o in PAPER_OUTPUTS]
    with ThreadPoolExecutor(2) as pool:
        runs = dict(zip(wanted, pool.map(Simulator(sys.argv[1]), wanted)))

    wrong, lowest, closest, cells = check(runs)
    lines = ["# Simulated: every policy on the paper's benchmark", "",
             "**Nothing here was measured.** `fiddler simulate` runs the engine's own policies, residency and planner in virtual time",
             "(`src/sim/virtual_run.h`), on hardware known by a dozen public numbers (`src/plan/builtin_hardware.cc`) and routing made up to",
             f"have Mixtral's statistics (`src/sim/routing_generator.h`), seed 0. Model: {MODEL} in bf16; {MEMORY} of GPU memory. Made by",
             "", "    tools/simulated_tables.py build/release/fiddler", "",
             f"In all {cells} cells `balanced` reaches at least {lowest:.1f}% of the ceiling at its own hits (`src/sim/layer_ceiling.h`); the next",
              f"best policy takes at least {closest:.2f} times as long. Prompts are one chunk; all policies overlap CPU, GPU and link alike.", "",
             "![Simulated tokens/s](simulated.svg)", ""]
    for hardware in HARDWARE:
        lines += hardware_section(runs, hardware)
    lines += paper_section(runs)
    (out / "simulated.md").write_text("\n".join(lines).rstrip() + "\n")
    (out / "simulated.svg").write_text(chart(runs))
    for cell in wrong:
        print(cell, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
