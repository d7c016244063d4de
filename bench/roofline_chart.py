#!/usr/bin/env python3
"""Draws docs/roofline.svg: what tokens on one expert reach, against the limits of the machine.

usage: roofline_chart.py RESULTS.json OUT.svg
RESULTS.json: {"experts": [what `fiddler bench MODEL --experts --json` printed, ...]}. Both axes are logarithmic: tokens on one
expert, and 10^9 operations a second as a share of the arithmetic's peak. The grey line of a run is its roof: reading the
expert once at the measured bandwidth, or multiplying at the measured peak, whichever is less.
"""

import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 60, 190, 30, 50
COLOURS = ("#1f6feb", "#d1742f", "#2e9e5b", "#a04ecb")
LOWEST = 1.0  # percent


def peak(run):
    key = {"bf16": "bf16_gflops", "int8": "int8_gops", "int4": "int8_gops"}.get(run["format"], "f32_gflops")
    return run["limits"][key]


def x_of(tokens):
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(tokens) / math.log(512)


def y_of(percent):
    share = math.log(max(percent, LOWEST) / LOWEST) / math.log(100 / LOWEST)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def line(points, colour, dash=""):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'


def text(x, y, words, anchor="middle", colour="#444"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def draw(runs):
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for percent in (1, 2, 5, 10, 20, 50, 100):
        y = y_of(percent)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 8, y + 4, f"{percent}%", "end"))
    for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        parts.append(text(x_of(tokens), HEIGHT - BOTTOM + 18, tokens))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "tokens on one expert"))
    parts.append(text(LEFT, TOP - 12, "share of the arithmetic peak; dashed: the roof (memory, then arithmetic)", "start"))
    for i, run in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        one = run["experts"][0]
        per_token = one["gflops"] / one["gbps"]  # operations a byte with one token
        roof = [min(100.0, 100 * run["limits"]["read_gbps"] * per_token * e["tokens"] / peak(run)) for e in run["experts"]]
        xs = [x_of(e["tokens"]) for e in run["experts"]]
        parts.append(line(zip(xs, map(y_of, roof)), colour, ' stroke-dasharray="4 4" opacity="0.6"'))
        got = [100 * e["gflops"] / peak(run) for e in run["experts"]]
        parts.append(line(zip(xs, map(y_of, got)), colour))
        name = f"{Path(run['model']).name} {run['format']}"
        parts.append(text(WIDTH - RIGHT + 12, TOP + 16 + 36 * i, name, "start", colour))
        parts.append(text(WIDTH - RIGHT + 12, TOP + 31 + 36 * i,
                          f"{run['limits']['read_gbps']:.0f} GB/s, {peak(run):.0f} GOP/s", "start"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.split("\n")[2])
    runs = json.loads(Path(sys.argv[1]).read_text())["experts"]
    Path(sys.argv[2]).write_text(draw(runs))


if __name__ == "__main__":
    main()
