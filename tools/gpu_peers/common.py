"""What the PyTorch peers share: the geometry, made-up weights in place, timing of greedy generation, JSON lines.

A peer prints {"about": ...} when its weights are there and {"result": ...} after each cell; a failure is {"error": ...}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench/peers"))
from geometry import config_of  # noqa: E402

FILL_SHARE = 0.5  # of the time, at most, may go into making up weights
BLOCK = (1 << 22) + 129  # values made up before they repeat; odd, so that no two rows are the same
SCALE = 0.02  # standard deviation, as Mixtral's initializer_range


def say(kind: str, content) -> None:
    print(json.dumps({kind: content}), flush=True)


def parse(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--geometry", default="mixtral-8x7b", help="or tiny-mixtral, for a machine without a GPU")
    parser.add_argument("--layers", type=int, help="cut the model to so many")
    parser.add_argument("--gpu-memory-gib", type=float, default=24.0)
    parser.add_argument("--cells", default="32/64,128/128", help="PROMPT/GENERATE, comma-separated (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="a cell is not started later than this (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    return parser.parse_args()


def cells_of(options: argparse.Namespace) -> list[tuple[int, int]]:
    return [tuple(map(int, cell.split("/"))) for cell in options.cells.split(",")]


def config_for(options: argparse.Namespace) -> dict:
    config = config_of(options.geometry)
    return config | ({"num_hidden_layers": options.layers} if options.layers else {})


class Filler:
    """Fills tensors with random values, by copying one block again and again: as fast as the memory."""

    def __init__(self, dtype: torch.dtype, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.block = (torch.randn(BLOCK, generator=generator) * SCALE).to(dtype)
        self.bytes, self.seconds, self.start = 0, 0.0, 0

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        started = time.monotonic()
        flat, block = tensor.view(-1), self.block.to(tensor.device)
        for at in range(0, flat.numel(), BLOCK):
            piece = flat[at : at + BLOCK]
            piece.copy_(block[: piece.numel()])
        self.bytes += tensor.numel() * tensor.element_size()
        self.seconds += time.monotonic() - started
        return tensor

    def seconds_for(self, size: int) -> float:
        return size * self.seconds / max(self.bytes, 1)


def prompt_of(tokens: int, vocab_size: int) -> torch.Tensor:
    return torch.randint(3, vocab_size, (1, tokens), generator=torch.Generator().manual_seed(1))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    step: Callable[[torch.Tensor], torch.Tensor], prompt: torch.Tensor, gen: int, device: torch.device, until: float
) -> dict:
    """`step`: ids [1, n] to the next id [1, 1], keeping its own cache. Generates until `gen` or the clock says `until`."""
    wait(device)
    started = time.monotonic()
    token = step(prompt)
    wait(device)
    ttft = time.monotonic() - started
    times = []
    while len(times) < gen - 1 and time.monotonic() < until:
        before = time.monotonic()
        token = step(token)
        wait(device)
        times.append(time.monotonic() - before)
    generated, total = len(times) + 1, ttft + sum(times)
    mean = sum(times) / len(times) if times else 0.0
    return {"prompt": prompt.shape[1], "for_gen": gen, "gen": generated, "ttft_s": ttft, "inter_token_s": mean,
            "inter_token_p50_s": sorted(times)[len(times) // 2] if times else 0.0, "tokens_per_s": generated / total,
            "end_to_end_tokens_per_s": gen / (ttft + (gen - 1) * mean)} | (
            {"decode_tokens_per_s": 1 / mean} if mean else {})  # fmt: skip


def gpu_peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def main(peer: Callable[[argparse.Namespace], None], description: str) -> None:
    options = parse(description)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("this torch sees no CUDA device")
        with torch.no_grad():  # not inference_mode: accelerate makes new parameters of offloaded weights
            peer(options)
    except Exception as error:  # the trial wants a line of JSON, whatever it was
        say("error", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:400])
        sys.exit(1)
