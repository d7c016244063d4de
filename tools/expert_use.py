"""How often every expert of a Mixtral folder is chosen on a text: a Markdown table, one row a layer.

    python3 -m venv venv && venv/bin/pip install -r tools/requirements.txt
    venv/bin/python tools/expert_use.py models/demo

The text is run in the windows of tools/eval_transformers.py. A share is the part of all (token, choice) pairs of the
layer that go to the expert: 1 / num_experts if all were used alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from eval_transformers import load_model


@torch.no_grad()
def expert_shares(model: PreTrainedModel, ids: list[int], context: int) -> Tensor:
    """[layers, experts], every row adds up to 1."""
    config = model.config
    counts = torch.zeros(config.num_hidden_layers, config.num_local_experts, dtype=torch.int64)
    for first in range(0, len(ids), context):
        window = torch.tensor([ids[first : first + context]])
        router_logits = model(window, use_cache=False, output_router_logits=True).router_logits
        for layer, logits in enumerate(router_logits):  # [tokens, experts]
            chosen = logits.topk(config.num_experts_per_tok).indices
            counts[layer] += torch.bincount(chosen.flatten(), minlength=config.num_local_experts)
    return counts / counts.sum(dim=1, keepdim=True)


def markdown(shares: Tensor) -> str:
    lines = ["| Layer | " + " | ".join(f"{e}" for e in range(shares.size(1))) + " | min..max |"]
    lines.append("| ---: |" + " ---: |" * (shares.size(1) + 1))
    for layer, row in enumerate(shares.tolist()):
        cells = " | ".join(f"{100 * share:.1f}%" for share in row)
        lines.append(f"| {layer} | {cells} | {100 * min(row):.1f}..{100 * max(row):.1f}% |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, help="default: heldout.txt of the model folder")
    parser.add_argument("--context", type=int, default=512)
    options = parser.parse_args()
    text = (options.text or options.model / "heldout.txt").read_text()
    ids = Tokenizer.from_file(str(options.model / "tokenizer.json")).encode(text).ids
    print(markdown(expert_shares(load_model(options.model), ids, options.context)))


if __name__ == "__main__":
    main()
