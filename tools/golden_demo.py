"""Writes `models/demo/golden.json`: what transformers computes in float32, for Fiddler's tests to compare with.

    python3 -m venv venv && venv/bin/pip install -r tools/requirements.txt
    venv/bin/python tools/golden_demo.py

For every prompt: its ids, greedy ids, their text, and `min_gap`, the smallest distance between the best and the
second-best logit along the way. Prompts that come closer to a tie than --min-gap are left out, since another order of
float additions might choose differently. The file also holds the perplexity of tools/eval_transformers.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from eval_transformers import evaluate, load_model
from train_demo import EOS_ID, REPOSITORY, write_json

PROMPTS = (
    "Once upon a time",
    "There was once a king who had three daughters",
    "The old witch looked at the little girl and said,",
    "Dorothy and the Scarecrow walked along the road",
    "Long ago, in a small house at the edge of a forest, there lived",
)


@torch.no_grad()
def greedy(model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, tokens: int) -> dict[str, object]:
    """Greedy continuation without a cache; stops after </s>, which stays in `token_ids`."""
    prompt_ids = tokenizer.encode(prompt).ids
    token_ids: list[int] = []
    gaps: list[float] = []
    while len(token_ids) < tokens and EOS_ID not in token_ids:
        logits = model(torch.tensor([prompt_ids + token_ids]), use_cache=False).logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        gaps.append(best - second)
        token_ids.append(int(logits.argmax()))
    return {
        "prompt": prompt,
        "prompt_ids": prompt_ids,
        "token_ids": token_ids,
        "text": tokenizer.decode(prompt_ids + token_ids)[len(prompt) :],
        "min_gap": min(gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "models/demo")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--min-gap", type=float, default=1e-3)
    options = parser.parse_args()

    model = load_model(options.model)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    continuations = [greedy(model, tokenizer, prompt, options.tokens) for prompt in PROMPTS]
    for c in continuations:
        print(f"{c['min_gap']:.4f} {c['prompt']!r} {c['text']!r}")
    golden = {
        "perplexity": evaluate(options.model, options.model / "heldout.txt", options.context),
        "greedy": [c for c in continuations if c["min_gap"] > options.min_gap],
    }
    print(golden["perplexity"])
    write_json(options.model / "golden.json", golden)


if __name__ == "__main__":
    main()
