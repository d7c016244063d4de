#!/usr/bin/env python3
"""Compares the built engine with Hugging Face transformers, live, on random models of random sizes.

    v/bin/pip install -r tests/oracle/requirements.txt
    v/bin/python tools/compare_with_transformers.py --seeds 10

For every family and seed: a tiny random model directory, saved by transformers in 3 shards, in a random weight type and
one of the two spellings of config.json. Then `fiddler eval --per-token` must give every token's negative log-likelihood
within 1e-4 of transformers in float32, and `fiddler run --temp 0` the same greedy tokens, unless two logits are a
near-tie. Prints a table; exits 1 on any difference. The committed golden files (tests/oracle/) are the fixed part of
the same comparison; this is for changes that those may not cover.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "oracle"))

from make_golden import FAMILIES, Golden, Json, Trace, compute, load_reference, rope, write_model  # noqa: E402

MAX_NLL_DIFFERENCE = 1e-4
NEAR_TIE = 1e-3  # a greedy choice closer than this in logits may go either way
MIN_CHOICE_GAP = 2e-5  # models with a closer routing decision are drawn again: float rounding may flip it
GENERATED_TOKENS = 16
PROMPT_TOKENS = 12
SECONDS_PER_COMMAND = 120


class Dice:
    """Random choices of a seed."""

    def __init__(self, *seed: int):
        self.generator = np.random.default_rng(seed)

    def between(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    def one_of(self, *choices):  # noqa: ANN002, ANN201
        return choices[self.between(0, len(choices) - 1)]


def random_rope(dice: Dice) -> Json:
    theta = dice.one_of(1e3, 1e4, 1e6)
    kind = dice.one_of("default", "default", "linear", "yarn", "yarn", "llama3")
    if kind == "default":
        return rope(theta=theta)
    factor = float(dice.one_of(1.5, 2, 4, 8))
    original = dice.one_of(16, 64, 256)
    if kind == "linear":
        return rope("linear", theta, factor=factor)
    if kind == "llama3":
        return rope("llama3", theta, factor=factor, original_max_position_embeddings=original,
                    low_freq_factor=1.0, high_freq_factor=4.0)
    extra: Json = {}
    if dice.chance(0.3):
        extra |= {"beta_fast": dice.one_of(4, 16), "beta_slow": dice.one_of(0.5, 2)}
    if dice.chance(0.3):
        extra |= dice.one_of({"attention_factor": 1.2}, {"mscale": 1.0, "mscale_all_dim": 0.5}, {"mscale": 0.7})
    if dice.chance(0.3):
        extra["truncate"] = False
    return rope("yarn", theta, factor=factor, original_max_position_embeddings=original, **extra)


def random_config(family: str, dice: Dice) -> Json:
    heads = dice.one_of(1, 2, 3, 4, 6, 8)
    head_dim = 2 * dice.between(2, 12)
    layers = dice.between(1, 4)
    experts = dice.between(2, 17)
    window = dice.between(2, 24)  # not 1: the KV cache of transformers 5.23 then keeps everything
    config: Json = {
        "vocab_size": dice.between(60, 400),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": dice.one_of(*(n for n in range(1, heads + 1) if heads % n == 0)),
        "num_experts": experts,
        "num_experts_per_tok": dice.between(1, min(6, experts)),
        "intermediate_size": dice.between(8, 80),
        "max_position_embeddings": 4096,
        "rms_norm_eps": dice.one_of(1e-6, 1e-5, 1e-3),
        "tie_word_embeddings": dice.chance(0.3),
        "rope_parameters": random_rope(dice),
        "eos_token_id": None,
    }
    if family in ("mixtral", "qwen3_moe"):
        config |= {"hidden_size": dice.between(16, 96), "head_dim": head_dim}
    else:
        config["hidden_size"] = heads * head_dim
    if family == "mixtral":
        config["sliding_window"] = dice.one_of(None, window)
    else:
        config["norm_topk_prob"] = dice.chance(0.5)
    if family == "olmoe":
        config |= {"clip_qkv": dice.one_of(None, 0.7, 1.5), "attention_bias": dice.chance(0.5)}
    if family in ("qwen2_moe", "qwen3_moe"):
        config |= {
            "moe_intermediate_size": dice.between(8, 60),
            "decoder_sparse_step": dice.between(1, min(2, layers)),
            "mlp_only_layers": [layer for layer in range(layers - 2) if dice.chance(0.3)],  # leaves one MoE layer
            "use_sliding_window": dice.chance(0.4),
            "sliding_window": window,
        }
    if family == "qwen2_moe":
        config |= {
            "shared_expert_intermediate_size": dice.between(8, 80),
            "qkv_bias": dice.chance(0.8),
            "max_window_layers": dice.between(0, layers),
        }
    if family == "qwen3_moe":
        config["attention_bias"] = dice.chance(0.3)
    return config


@dataclasses.dataclass
class Reference:
    """One random model and what transformers computes for it."""

    golden: Golden
    ids: list[int]
    context: int
    nll: np.ndarray  # of every scored token
    greedy_ids: list[int]
    greedy_logits: torch.Tensor  # [GENERATED_TOKENS, vocab]


@torch.no_grad()
def score(model: transformers.PreTrainedModel, ids: list[int], context: int) -> np.ndarray:
    scored: list[torch.Tensor] = []
    for start in range(0, len(ids), context):
        window = torch.tensor(ids[start : start + context])
        log_probabilities = model(window[None]).logits[0].double().log_softmax(-1)
        scored.append(-log_probabilities[:-1].gather(1, window[1:, None])[:, 0])
    return torch.cat(scored).numpy()


def make_reference(family: str, seed: int, directory: Path) -> Reference:
    """Draws models until one has no routing near-tie, and leaves it in `directory`."""
    for attempt in range(100):
        dice = Dice(seed, list(FAMILIES).index(family), attempt)
        config = random_config(family, dice)
        published = dice.chance(0.5)
        if published and family == "qwen2_moe":  # fields that 4.x configs of this family do not have
            config |= {"qkv_bias": True, "mlp_only_layers": []}
        golden = Golden(family, "", family, config, dtype=dice.one_of("float32", "bfloat16", "float16"), shards=3,
                        weight_std=1.2 / math.sqrt(config["hidden_size"]), published=published,
                        legacy_rope_type=dice.chance(0.5), fused=not published and dice.chance(0.3))
        try:
            write_model(golden, seed, directory)
        except RuntimeError:  # too few tensors to fill 3 shards evenly
            continue
        context = dice.between(20, 70)
        ids = dice.generator.integers(0, config["vocab_size"], 2 * context + dice.between(2, context)).tolist()
        model = load_reference(directory)
        trace = Trace()
        trace.attach(model)
        nll = score(model, ids, context)
        tensors, _ = compute(model, torch.tensor(ids[:PROMPT_TOKENS]), GENERATED_TOKENS)
        if trace.choice_gap > MIN_CHOICE_GAP:
            return Reference(golden, ids, context, nll, tensors["greedy_ids"].tolist(), tensors["greedy_logits"])
    raise RuntimeError(f"{family} seed {seed}: no model without routing near-ties in 100 attempts")


def run_json(command: list[str]) -> Json:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_PER_COMMAND, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:2])} exited {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def compare_nll(fiddler: Path, directory: Path, reference: Reference) -> tuple[str, bool]:
    ids_file = directory.parent / "ids.txt"
    ids_file.write_text(" ".join(map(str, reference.ids)) + "\n")
    answer = run_json([str(fiddler), "eval", str(directory), "--ids", str(ids_file),
                       "--context", str(reference.context), "--per-token", "--arithmetic", "exact", "--json"])
    nll = np.array(answer["nll"], dtype=np.float64)
    if nll.shape != reference.nll.shape or answer["tokens"] != len(nll):
        return f"{len(nll)} tokens scored (tokens: {answer['tokens']}), expected {len(reference.nll)}", False
    worst = float(np.abs(nll - reference.nll).max())
    perplexity = math.exp(float(reference.nll.mean()))
    good = worst < MAX_NLL_DIFFERENCE and abs(answer["perplexity"] / perplexity - 1) < MAX_NLL_DIFFERENCE
    return f"max |nll diff| {worst:.1e}, perplexity {answer['perplexity']:.4f} / {perplexity:.4f}", good


def compare_greedy(fiddler: Path, directory: Path, reference: Reference) -> tuple[str, bool]:
    prompt = ",".join(map(str, reference.ids[:PROMPT_TOKENS]))
    answer = run_json([str(fiddler), "run", str(directory), "--prompt-ids", prompt, "-n", str(GENERATED_TOKENS),
                       "--temp", "0", "--arithmetic", "exact", "--json"])
    ids = answer["token_ids"]
    if len(ids) != GENERATED_TOKENS:
        return f"{len(ids)} tokens, expected {GENERATED_TOKENS}", False
    for step, (got, expected) in enumerate(zip(ids, reference.greedy_ids)):
        if got != expected:
            row = reference.greedy_logits[step]
            gap = float(row[expected] - row[got])
            return f"step {step}: {got} for {expected}, logits {gap:.1e} apart", gap < NEAR_TIE
    return "same tokens", True


def describe(golden: Golden) -> str:
    c = golden.config
    spelling = "fused" if golden.fused else "published" if golden.published else "v5"
    return (f"{golden.dtype:8} {spelling:9} L{c['num_hidden_layers']} H{c['hidden_size']:<3} "
            f"{c['num_attention_heads']}/{c['num_key_value_heads']} heads {c['num_experts']:>2} experts "
            f"top-{c['num_experts_per_tok']} {c['rope_parameters']['rope_type']:7}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="models per family (default 3)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--fiddler", type=Path, default=REPOSITORY / "build" / "release" / "fiddler")
    parser.add_argument("--keep", type=Path, help="keep the model directories here")
    arguments = parser.parse_args()
    if not arguments.fiddler.exists():
        print(f"{arguments.fiddler}: not built", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        for family in arguments.families:
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                directory = root / f"{family}-{seed}" / "model"
                directory.parent.mkdir(parents=True, exist_ok=True)
                reference = make_reference(family, seed, directory)
                for compare in (compare_nll, compare_greedy):
                    try:
                        text, good = compare(arguments.fiddler, directory, reference)
                    except (RuntimeError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
                        text, good = f"{type(error).__name__}: {error}", False
                    failures += not good
                    verdict = "ok  " if good else "FAIL"
                    print(f"{family:9} {seed:3} {describe(reference.golden)} {verdict} {text}", flush=True)
    print(f"{failures} differences" if failures else "no differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
