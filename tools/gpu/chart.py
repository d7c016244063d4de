"""One chart of a trial as SVG: what each policy reaches, model by model, beside the roofline at its own hits."""

from __future__ import annotations

from html import escape

from gpu.engine import POLICIES
from gpu.limits import limits_of, scenarios_of
from gpu.results import DRY, ResultsError, data_of

COLOURS = ("#1f6feb", "#d1742f", "#2e9e5b", "#a04ecb", "#8a8f98", "#c9a227")  # as in docs/simulated.svg
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 380, 60, 50, 70
GROUPS = (("mixtral", 32, 64), ("mixtral", 128, 128), ("qwen3", 32, 64))


def bars_of(content: dict, step: str, prompt: int, gen: int) -> list[tuple[float, float] | None]:
    """A policy's decode rate and its ceiling (0: unknown); None: not measured."""
    model = data_of(content, step).get("model", {})
    entries = {e["policy"]: e for e in scenarios_of(content, step) if (e["prompt"], e["for_gen"], e["batch"]) == (prompt, gen, 1)}
    bars = []
    for policy in POLICIES:
        entry = entries.get(policy, {})
        rate, hits, ceiling = entry.get("decode_tokens_per_s"), entry.get("hit_rate"), 0.0
        if hits is not None:
            try:
                ceiling = limits_of(content).decode_ceiling(model, hits)
            except (ResultsError, KeyError, IndexError, ZeroDivisionError):
                pass  # nothing was calibrated
        bars.append((rate, ceiling) if rate else None)
    return bars


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444">{escape(str(words))}</text>'


def draw(content: dict) -> str:
    """Each group has a scale of its own: models differ by a hundred."""
    title = f"{content.get('gpu') or 'no GPU'}: decode tokens/s; lines: the roofline at a policy's own hits"
    if content["kind"] == DRY:
        title = "DRY RUN, nothing was measured: " + title
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(LEFT, 20, title, "start")]  # fmt: skip
    groups = [(group, bars) for group in GROUPS if any(bars := bars_of(content, *group))]
    width = (WIDTH - LEFT - 20) / max(len(groups), 1)
    for index, ((step, prompt, gen), bars) in enumerate(groups):
        x, bar = LEFT + index * width + 0.1 * width, 0.8 * width / len(POLICIES)
        largest = max(max(rate, ceiling) for rate, ceiling in filter(None, bars))
        y = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / largest  # noqa: B023, E731
        for place, both in enumerate(bars):
            if not both:
                continue
            (rate, ceiling), at = both, x + place * bar
            parts.append(
                f'<rect x="{at:.1f}" y="{y(rate):.1f}" width="{bar - 2:.1f}" height="{y(0) - y(rate):.1f}" fill="{COLOURS[place]}"/>'
            )
            parts.append(text(at + bar / 2 - 1, y(rate) - 4, f"{rate:.1f}"))
            if ceiling:
                parts.append(
                    f'<line x1="{at:.1f}" x2="{at + bar - 2:.1f}" y1="{y(ceiling):.1f}" y2="{y(ceiling):.1f}" stroke="#444"/>'
                )
        model = data_of(content, step)["model"]
        parts.append(
            text(x + 0.4 * width, HEIGHT - BOTTOM + 18, f"{model['geometry']}, {model['layers']} layers, {prompt} / {gen}")
        )
    if not groups:
        parts.append(text(WIDTH / 2, HEIGHT / 2, "no scenario of the grid came to its end"))
    for place, policy in enumerate(POLICIES):
        x = LEFT + place * (WIDTH - LEFT - 20) / len(POLICIES)
        parts.append(f'<rect x="{x:.1f}" y="{HEIGHT - 30}" width="10" height="10" fill="{COLOURS[place]}"/>')
        parts.append(text(x + 15, HEIGHT - 21, policy, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"
