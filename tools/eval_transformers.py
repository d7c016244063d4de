"""Perplexity of a model folder by transformers: the reference for `fiddler eval`.

    python3 -m venv venv && venv/bin/pip install -r tools/requirements.txt
    venv/bin/python tools/eval_transformers.py models/demo

The whole text is tokenised once, special tokens included. Its ids are cut into consecutive windows of --context tokens
(the last may be shorter; a last window of one token is dropped). Every window is run on its own from position 0, and
every token of it but the first is scored. Weights and logits are float32, the log-softmax is float64.
Prints one JSON object: {"perplexity", "tokens" (scored), "context"}.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import MixtralForCausalLM, PreTrainedModel


def load_model(folder: Path) -> PreTrainedModel:
    """transformers' own class and code path, in float32."""
    return MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def window_nll(model: PreTrainedModel, ids: list[int]) -> float:
    """Sum of -log p over the ids after the first."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
    targets = torch.tensor(ids[1:]).unsqueeze(1)
    return -logits.log_softmax(dim=-1).gather(1, targets).sum().item()


def perplexity(model: PreTrainedModel, ids: list[int], context: int) -> dict[str, float | int]:
    windows = [ids[first : first + context] for first in range(0, len(ids), context)]
    scored = [window for window in windows if len(window) > 1]
    tokens = sum(len(window) - 1 for window in scored)
    nll = sum(window_nll(model, window) for window in scored)
    return {"perplexity": math.exp(nll / tokens), "tokens": tokens, "context": context}


def evaluate(folder: Path, text: Path, context: int) -> dict[str, float | int]:
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text.read_text()).ids
    return perplexity(load_model(folder), ids, context)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with config.json, tokenizer.json and *.safetensors")
    parser.add_argument("--text", type=Path, help="default: heldout.txt of the model folder")
    parser.add_argument("--context", type=int, default=512)
    options = parser.parse_args()
    print(json.dumps(evaluate(options.model, options.text or options.model / "heldout.txt", options.context)))


if __name__ == "__main__":
    main()
