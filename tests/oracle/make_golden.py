#!/usr/bin/env python3
"""Makes the golden files that the C++ tests check the engine against: tiny random models of every family, saved by
Hugging Face transformers, with what transformers computes for them in float32 with eager attention.

    python make_golden.py                   write tests/oracle/golden/ again (byte-identical on the same kind of CPU)
    python make_golden.py --check           make everything elsewhere and compare with what is committed
    python make_golden.py --find-seeds      print, for each model, the first seed that passes the checks below
    python make_golden.py --only NAME ...   restrict any of these to some models

Each golden is a directory: `model/` exactly as `save_pretrained` writes it, `golden.safetensors`, `golden.json` (see
README.md). A model is accepted only if no routing decision and no greedy choice is a near-tie, if decoding with a KV
cache agrees with one pass over the whole sequence, and if every setting it is meant to test is *felt*: changing that
setting in config.json must move the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, OlmoeConfig, PreTrainedModel, Qwen2MoeConfig, Qwen3MoeConfig

Json = dict[str, Any]

GENERATED_TOKENS = 16
MIN_ROUTER_GAP = 1e-4  # between the k-th and the k+1-th probability, over all layers and tokens
MIN_GREEDY_GAP = 1e-2  # between the best and the second best logit of each greedy step
MIN_FELT = 1e-2  # largest change of a logit when a setting under test is changed
SEED_MARGIN = 1.3  # --find-seeds asks this much more, so that another CPU's rounding does not reject a seed
MAX_CACHE_DIFFERENCE = 1e-4  # decoding with a KV cache against one pass
MAX_OTHER_CPU_DIFFERENCE = 5e-5  # --check: float sums come in another order on another CPU

FAMILIES: dict[str, tuple[type, Json]] = {
    "mixtral": (MixtralConfig, {"bos_token_id": 1, "eos_token_id": 2}),
    "qwen2_moe": (Qwen2MoeConfig, {}),
    "qwen3_moe": (Qwen3MoeConfig, {}),
    "olmoe": (OlmoeConfig, {"pad_token_id": 1, "eos_token_id": None}),
}


@dataclasses.dataclass(frozen=True)
class Golden:
    """One row of the table: a model, how it is saved, and which settings it must prove."""

    name: str
    varies: str
    family: str
    config: Json
    seed: int = 0
    tokens: int = 40
    dtype: str = "float32"
    shards: int = 1
    published: bool = False  # rewrite config.json the way Hub configs of transformers 4.x are written
    legacy_rope_type: bool = False  # with published: rope_scaling says "type" rather than "rope_type"
    fused: bool = False  # the in-memory tensor names of transformers 5: mlp.experts.gate_up_proj
    weight_std: float = 0.2
    optional: bool = False  # an engine may refuse this configuration instead
    felt: tuple[Json, ...] = ()  # edits of config.json, each of which must change the logits


def shape(vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, experts: int, top_k: int) -> Json:
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_experts": experts,
        "num_experts_per_tok": top_k,
    }


def rope(rope_type: str = "default", theta: float = 1e4, **rest: Any) -> Json:
    return {"rope_type": rope_type, "rope_theta": theta, **rest}


# For `felt`: the same model with plain RoPE, in either spelling of config.json.
PLAIN_ROPE_V5 = {"rope_parameters": rope()}
PLAIN_ROPE_PUBLISHED = {"rope_scaling": None}

# fmt: off
GOLDENS: tuple[Golden, ...] = (
    # ---- Mixtral ------------------------------------------------------------------------------------------------
    Golden("mixtral-base", "GQA 4/2, 8 experts, top-2, head_dim null, default rope theta", "mixtral",
           shape(131, 48, 2, 4, 2, 8, 2) | {"intermediate_size": 40},
           seed=1, felt=(PLAIN_ROPE_V5,)),
    Golden("mixtral-window-bf16", "MHA, sliding window 7, 5 experts, top-1, bf16; published config without head_dim", "mixtral",
           shape(131, 32, 3, 4, 4, 5, 1) | {"intermediate_size": 24, "sliding_window": 7, "rope_parameters": rope(theta=5e4)},
           dtype="bfloat16", published=True,
           felt=({"sliding_window": None}, {"sliding_window": 6}, {"sliding_window": 8}, {"rope_theta": 1e4})),
    Golden("mixtral-yarn", "MQA, head_dim 16 with heads*head_dim > hidden, YaRN, 6 experts, top-3, tied, 96 tokens, 3 shards", "mixtral",
           shape(113, 40, 2, 4, 1, 6, 3) | {
               "intermediate_size": 24, "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 128,
               "rope_parameters": rope("yarn", 1e4, factor=4.0, original_max_position_embeddings=32)},
           seed=1, tokens=96, shards=3,
           felt=(PLAIN_ROPE_V5, {"rope_parameters": rope("yarn", 1e4, factor=4.0, original_max_position_embeddings=32,
                                                          attention_factor=1.0)})),
    Golden("mixtral-linear-f16", "linear rope, all 4 experts chosen, odd sizes (hidden 36, intermediate 37), large norm eps, f16", "mixtral",
           shape(97, 36, 2, 6, 3, 4, 4) | {
               "intermediate_size": 37, "rms_norm_eps": 1e-2, "rope_parameters": rope("linear", 1e4, factor=2.5)},
           dtype="float16",
           felt=(PLAIN_ROPE_V5, {"rms_norm_eps": 1e-5})),
    Golden("mixtral-fused", "fused tensor names of transformers 5, llama3 rope, window 12, eos list", "mixtral",
           shape(131, 32, 2, 4, 2, 5, 2) | {
               "intermediate_size": 20, "sliding_window": 12, "eos_token_id": [2, 3], "max_position_embeddings": 64,
               "rope_parameters": rope("llama3", 1e3, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                       original_max_position_embeddings=32)},
           seed=8, fused=True, felt=(PLAIN_ROPE_V5, {"rope_parameters": rope(theta=1e3)}, {"sliding_window": None})),
    Golden("mixtral-dynamic", "dynamic NTK rope past max_position_embeddings, prompt in one call", "mixtral",
           shape(97, 32, 2, 4, 2, 4, 2) | {
               "intermediate_size": 20, "head_dim": 8, "max_position_embeddings": 24,
               "rope_parameters": rope("dynamic", 1e3, factor=3.0)},
           seed=1, optional=True, felt=({"rope_parameters": rope(theta=1e3)},)),

    # ---- Qwen2-MoE ----------------------------------------------------------------------------------------------
    Golden("qwen2-base", "MHA with q/k/v bias, shared expert, 6 experts, top-2, no renormalisation", "qwen2_moe",
           shape(131, 48, 2, 4, 4, 6, 2) | {
               "intermediate_size": 44, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 36},
           felt=({"norm_topk_prob": True},)),
    Golden("qwen2-window", "window 6 on layers 0 and 2 of 4 (max_window_layers 3), dense layer 1, renormalised top-3, GQA, 3 shards", "qwen2_moe",
           shape(127, 32, 4, 4, 2, 5, 3) | {
               "intermediate_size": 40, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24,
               "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3, "mlp_only_layers": [1],
               "norm_topk_prob": True, "rope_parameters": rope(theta=1e6)},
           seed=1, shards=3,
           felt=({"norm_topk_prob": False}, {"sliding_window": 5}, {"layer_types": ["full_attention"] * 4},
                 {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, {"rope_parameters": rope(theta=1e4)})),
    Golden("qwen2-published-yarn-bf16", "published config with type yarn, decoder_sparse_step 2, window fields present but off, 96 tokens, bf16", "qwen2_moe",
           shape(131, 32, 4, 4, 4, 5, 3) | {
               "intermediate_size": 40, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 28,
               "decoder_sparse_step": 2, "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 2,
               "max_position_embeddings": 128,
               "rope_parameters": rope("yarn", 1e4, factor=4.0, original_max_position_embeddings=32)},
           seed=8, tokens=96, dtype="bfloat16", published=True, legacy_rope_type=True,
           felt=(PLAIN_ROPE_PUBLISHED, {"norm_topk_prob": True}, {"use_sliding_window": True})),
    Golden("qwen2-published-window", "published config with the window on and no layer_types, MQA, theta 1e6, f16", "qwen2_moe",
           shape(97, 32, 3, 4, 1, 4, 2) | {
               "intermediate_size": 36, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 20,
               "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2, "rope_parameters": rope(theta=1e6)},
           seed=4, dtype="float16", published=True,
           felt=({"use_sliding_window": False}, {"max_window_layers": 3}, {"rope_theta": 1e4})),
    Golden("qwen2-fused", "fused tensor names, no q/k/v bias, tied, top-1 of 3, explicit layer_types, linear rope", "qwen2_moe",
           shape(97, 36, 3, 6, 2, 3, 1) | {
               "intermediate_size": 40, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 17,
               "qkv_bias": False, "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 10,
               "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
               "rope_parameters": rope("linear", 1e4, factor=3.0)},
           seed=1, fused=True,
           felt=(PLAIN_ROPE_V5, {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
                 {"norm_topk_prob": True})),

    # ---- Qwen3-MoE ----------------------------------------------------------------------------------------------
    Golden("qwen3-base", "head_dim 16 with heads*head_dim > hidden, GQA 4/2, 8 experts, renormalised top-2, num_local_experts in config.json", "qwen3_moe",
           shape(131, 40, 2, 4, 2, 8, 2) | {
               "intermediate_size": 48, "moe_intermediate_size": 24, "head_dim": 16, "norm_topk_prob": True},
           seed=1, felt=({"norm_topk_prob": False}, {"rms_norm_eps": 1e-1})),
    Golden("qwen3-published-yarn-bf16", "published config as the model card says for long context (YaRN), MHA, theta 1e6, top-3 of 5, 96 tokens, bf16", "qwen3_moe",
           shape(131, 32, 3, 4, 4, 5, 3) | {
               "intermediate_size": 40, "moe_intermediate_size": 20, "head_dim": 12, "norm_topk_prob": True,
               "max_position_embeddings": 40,
               "rope_parameters": rope("yarn", 1e6, factor=4.0, original_max_position_embeddings=32)},
           tokens=96, dtype="bfloat16", published=True,
           felt=(PLAIN_ROPE_PUBLISHED, {"norm_topk_prob": False}, {"rope_theta": 1e4})),
    Golden("qwen3-window-bias", "window 9, attention_bias (o too), dense layer 0, no renormalisation, MQA, tied, head_dim below hidden/heads, 3 shards", "qwen3_moe",
           shape(127, 48, 3, 4, 1, 5, 3) | {
               "intermediate_size": 40, "moe_intermediate_size": 16, "head_dim": 8, "attention_bias": True,
               "use_sliding_window": True, "sliding_window": 9, "mlp_only_layers": [0], "tie_word_embeddings": True},
           seed=2, shards=3,
           felt=({"sliding_window": None}, {"sliding_window": 8}, {"sliding_window": 10}, {"norm_topk_prob": True})),
    Golden("qwen3-sparse-step-f16", "decoder_sparse_step 2, no head_dim field, top-1 of 4, YaRN with mscale, betas and truncate false, f16", "qwen3_moe",
           shape(97, 48, 4, 6, 3, 4, 1) | {
               "intermediate_size": 37, "moe_intermediate_size": 20, "decoder_sparse_step": 2, "max_position_embeddings": 8192,
               "rope_parameters": rope("yarn", 1e3, factor=8.0, original_max_position_embeddings=1024, beta_fast=4, beta_slow=0.5,
                                       mscale=1.3, mscale_all_dim=0.4, truncate=False)},
           seed=1, dtype="float16",
           felt=(PLAIN_ROPE_V5, {"norm_topk_prob": True},
                 *({"rope_parameters": rope("yarn", 1e3, factor=8.0, original_max_position_embeddings=1024,
                                            **({"beta_fast": 4, "beta_slow": 0.5, "mscale": 1.3, "mscale_all_dim": 0.4,
                                                "truncate": False} | change))}
                   for change in ({"beta_fast": 32}, {"beta_slow": 1}, {"mscale_all_dim": 0}, {"truncate": True})))),
    Golden("qwen3-fused", "fused tensor names, YaRN with an explicit attention_factor, 8 experts, top-4, mlp_only_layers and decoder_sparse_step together", "qwen3_moe",
           shape(97, 32, 4, 4, 2, 8, 4) | {
               "intermediate_size": 28, "moe_intermediate_size": 12, "head_dim": 10, "norm_topk_prob": True,
               "mlp_only_layers": [3], "decoder_sparse_step": 2, "max_position_embeddings": 64,
               "rope_parameters": rope("yarn", 1e4, factor=2.0, original_max_position_embeddings=16, attention_factor=0.8)},
           seed=12, fused=True,
           felt=(PLAIN_ROPE_V5, {"norm_topk_prob": False},
                 {"rope_parameters": rope("yarn", 1e4, factor=2.0, original_max_position_embeddings=16)})),

    # ---- OLMoE --------------------------------------------------------------------------------------------------
    Golden("olmoe-base", "MHA, full-width q/k norm, 8 experts, top-2, no renormalisation, no clip", "olmoe",
           shape(131, 48, 2, 4, 4, 8, 2) | {"intermediate_size": 32},
           seed=2, felt=({"norm_topk_prob": True}, {"rms_norm_eps": 1e-1})),
    Golden("olmoe-clip-gqa", "clip_qkv 0.9, GQA, attention_bias, renormalised top-3 of 5, 3 shards", "olmoe",
           shape(127, 40, 2, 4, 2, 5, 3) | {
               "intermediate_size": 28, "clip_qkv": 0.9, "attention_bias": True, "norm_topk_prob": True},
           seed=4, shards=3,
           felt=({"clip_qkv": None}, {"norm_topk_prob": False})),
    Golden("olmoe-published-bf16", "published config, 12 experts, top-5, bf16, eos id", "olmoe",
           shape(131, 32, 2, 4, 4, 12, 5) | {"intermediate_size": 16, "eos_token_id": 0},
           seed=34, dtype="bfloat16", published=True,
           felt=({"rope_theta": 1e2}, {"norm_topk_prob": True})),
    Golden("olmoe-published-linear-f16", "published config with type linear, MQA, tied, top-1 of 3, clip_qkv, large norm eps, f16", "olmoe",
           shape(97, 36, 3, 6, 1, 3, 1) | {
               "intermediate_size": 37, "tie_word_embeddings": True, "clip_qkv": 1.5, "rms_norm_eps": 1e-2,
               "rope_parameters": rope("linear", 1e4, factor=2.0)},
           seed=13, dtype="float16", published=True, legacy_rope_type=True,
           felt=(PLAIN_ROPE_PUBLISHED, {"clip_qkv": None}, {"rms_norm_eps": 1e-5}, {"norm_topk_prob": True})),
    Golden("olmoe-yarn-fused", "fused tensor names, YaRN, 96 tokens, top-4 of 5", "olmoe",
           shape(113, 32, 2, 2, 2, 5, 4) | {
               "intermediate_size": 24, "max_position_embeddings": 2048,
               "rope_parameters": rope("yarn", 1e4, factor=8.0, original_max_position_embeddings=256, beta_fast=8, beta_slow=2)},
           seed=12, tokens=96, fused=True,
           felt=(PLAIN_ROPE_V5, {"norm_topk_prob": True},
                 {"rope_parameters": rope("yarn", 1e4, factor=8.0, original_max_position_embeddings=256)})),
)
# fmt: on


class Rejected(Exception):
    """The seed gives a model that a test could not judge, or that does not test what it should."""


# ---- Making and saving a model -------------------------------------------------------------------------------------


def random_model(family: str, config: Json, dtype: str, seed: int, weight_std: float) -> PreTrainedModel:
    """A model with weights large enough that attention and routing have opinions, and biases and norms that matter."""
    config_class, family_defaults = FAMILIES[family]
    model = transformers.AutoModelForCausalLM.from_config(config_class(**(family_defaults | config)))
    generator = np.random.default_rng(seed)  # numpy: the same numbers on every CPU, which torch does not promise
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = generator.standard_normal(tuple(parameter.shape), dtype=np.float32)
            if name.endswith("norm.weight"):
                values = 1.0 + 0.2 * values
            elif name.endswith(".bias"):
                values = 0.3 * values
            elif name == "model.embed_tokens.weight":
                values = 0.3 * values
            else:
                values = weight_std * values
            parameter.copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))
    return model.to(getattr(torch, dtype))


def save_model(model: PreTrainedModel, directory: Path, shards: int = 1, fused: bool = False) -> None:
    total = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    for attempt in range(40):  # transformers takes the size of a shard, not their number
        shutil.rmtree(directory, ignore_errors=True)
        size = "50GB" if shards == 1 else int(total / shards * (1 + attempt / 80)) + 1
        model.save_pretrained(directory, max_shard_size=size, save_original_format=not fused)
        if len(list(directory.glob("*.safetensors"))) == shards:
            return
    raise RuntimeError(f"{directory}: found no shard size that gives {shards} shards")


def as_published(config: Json, legacy_rope_type: bool) -> Json:
    """config.json as transformers 4.x wrote it, which is what the Hub holds for all four families."""
    config = dict(config)
    parameters = dict(config.pop("rope_parameters"))
    config["rope_theta"] = parameters.pop("rope_theta")
    rope_type = parameters.pop("rope_type")
    if rope_type != "default":
        config["rope_scaling"] = {"type" if legacy_rope_type else "rope_type": rope_type} | parameters
    elif config["model_type"] in ("qwen3_moe", "olmoe"):
        config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    if config["model_type"] == "mixtral" and config["head_dim"] is None:
        del config["head_dim"]
    if config["model_type"] == "qwen2_moe":
        for absent in ("layer_types", "qkv_bias", "mlp_only_layers"):
            del config[absent]
    return dict(sorted(config.items()))


def edit_config(directory: Path, edit: Json) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | edit
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_model(golden: Golden, seed: int, directory: Path) -> None:
    model = random_model(golden.family, golden.config, golden.dtype, seed, golden.weight_std)
    save_model(model, directory, golden.shards, golden.fused)
    if golden.published:
        path = directory / "config.json"
        config = as_published(json.loads(path.read_text()), golden.legacy_rope_type)
        if golden.family == "qwen2_moe":  # v5 saves 0 when the window is off; the Hub keeps the number
            config["sliding_window"] = golden.config["sliding_window"]
        path.write_text(json.dumps(config, indent=2) + "\n")


# ---- What transformers computes ------------------------------------------------------------------------------------


def load_reference(directory: Path) -> PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


@dataclasses.dataclass
class Trace:
    """What one forward pass did inside, collected by hooks."""

    layers: list[torch.Tensor] = dataclasses.field(default_factory=list)  # [tokens, hidden] each
    router_ids: list[torch.Tensor] = dataclasses.field(default_factory=list)  # [tokens, top_k] each
    router_weights: list[torch.Tensor] = dataclasses.field(default_factory=list)
    router_gap: float = float("inf")  # also between neighbours inside the top k
    choice_gap: float = float("inf")  # only between the last chosen and the first not chosen

    def attach(self, model: PreTrainedModel) -> None:
        for layer in model.model.layers:
            layer.register_forward_hook(lambda _m, _i, out: self.layers.append(out[0].clone()))
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_hook(lambda _m, _i, out: self._on_router(*out))

    def _on_router(self, logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> None:
        self.router_ids.append(ids.to(torch.int32))
        self.router_weights.append(weights.clone())
        ranked = logits.softmax(-1).sort(-1, descending=True).values
        top_k = ids.shape[-1]
        # The order inside the top k is recorded too, so it must be as clear as the choice itself.
        last = min(top_k, ranked.shape[-1] - 1)
        gaps = ranked[:, :last] - ranked[:, 1 : last + 1]
        if gaps.numel() > 0:
            self.router_gap = min(self.router_gap, float(gaps.min()))
        if top_k < ranked.shape[-1]:
            self.choice_gap = min(self.choice_gap, float(gaps[:, -1].min()))


@torch.no_grad()
def compute(model: PreTrainedModel, input_ids: torch.Tensor, steps: int) -> tuple[dict[str, torch.Tensor], Json]:
    """Prefill of `input_ids` [tokens] in one call, then `steps` greedy tokens with the KV cache."""
    trace = Trace()
    trace.attach(model)
    prefill = model(input_ids[None], use_cache=True)
    tensors = {
        "input_ids": input_ids,
        "logits": prefill.logits[0],
        "layer_outputs": torch.stack(trace.layers),
        "router_ids": torch.stack(trace.router_ids),
        "router_weights": torch.stack(trace.router_weights),
    }
    rows = [prefill.logits[0, -1]]
    cache = prefill.past_key_values
    while len(rows) < steps:
        rows.append(model(rows[-1].argmax()[None, None], past_key_values=cache, use_cache=True).logits[0, -1])
    tensors["greedy_logits"] = torch.stack(rows)
    tensors["greedy_ids"] = tensors["greedy_logits"].argmax(-1)
    best = tensors["greedy_logits"].topk(2, -1).values
    facts = {"min_router_gap": trace.router_gap, "min_greedy_gap": float((best[:, 0] - best[:, 1]).min())}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, facts


@torch.no_grad()
def logits_with(directory: Path, edit: Json, input_ids: torch.Tensor) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "model"
        shutil.copytree(directory, copy)
        edit_config(copy, edit)
        return load_reference(copy)(input_ids[None]).logits[0]


@torch.no_grad()
def judge(golden: Golden, directory: Path, tensors: dict[str, torch.Tensor], facts: Json, margin: float) -> None:
    """Raises Rejected unless this model is fit to be a golden."""
    if facts["min_router_gap"] <= MIN_ROUTER_GAP * margin:
        raise Rejected(f"router near-tie {facts['min_router_gap']:.1e}")
    if facts["min_greedy_gap"] <= MIN_GREEDY_GAP * margin:
        raise Rejected(f"greedy near-tie {facts['min_greedy_gap']:.1e}")
    eos = json.loads((directory / "config.json").read_text()).get("eos_token_id")
    greedy = tensors["greedy_ids"].tolist()
    if set(greedy) & set(eos if isinstance(eos, list) else [eos]):
        raise Rejected("the greedy continuation holds an end token")
    if len(set(greedy)) < GENERATED_TOKENS // 2:
        raise Rejected("the greedy continuation repeats itself")
    if golden.config.get("rope_parameters", {}).get("rope_type") != "dynamic":
        whole = load_reference(directory)(torch.cat([tensors["input_ids"], tensors["greedy_ids"][:-1]])[None]).logits[0]
        difference = float((whole[-GENERATED_TOKENS:] - tensors["greedy_logits"]).abs().max())
        if difference > MAX_CACHE_DIFFERENCE:
            raise Rejected(f"KV cache and one pass differ by {difference:.1e}")
    for edit in golden.felt:
        change = float((logits_with(directory, edit, tensors["input_ids"]) - tensors["logits"]).abs().max())
        if change < MIN_FELT * margin:
            raise Rejected(f"{edit} is not felt: the logits move by only {change:.1e}")


def make(golden: Golden, seed: int, root: Path, margin: float = 1.0) -> Json:
    """Writes root/<name>/ and returns what golden.json says."""
    directory = root / golden.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_model(golden, seed, directory / "model")
    vocab = golden.config["vocab_size"]
    input_ids = torch.from_numpy(np.random.default_rng([seed, 1]).integers(0, vocab, golden.tokens, dtype=np.int64))
    model = load_reference(directory / "model")
    moe_layers = [i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "gate")]
    tensors, facts = compute(model, input_ids, GENERATED_TOKENS)
    judge(golden, directory / "model", tensors, facts, margin)
    save_file(tensors, directory / "golden.safetensors")
    summary = {
        "name": golden.name,
        "family": golden.family,
        "varies": golden.varies,
        "optional": golden.optional,
        "moe_layers": moe_layers,
        "num_layers": golden.config["num_hidden_layers"],
        "tokens": golden.tokens,
        "generated": GENERATED_TOKENS,
        "min_router_gap": float(f"{facts['min_router_gap']:.3g}"),
        "min_greedy_gap": float(f"{facts['min_greedy_gap']:.3g}"),
        "seed": seed,
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
    }
    (directory / "golden.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


# ---- The three things this script can do ---------------------------------------------------------------------------


def write_all(goldens: list[Golden], root: Path) -> int:
    for golden in goldens:
        facts = make(golden, golden.seed, root)
        size = sum(f.stat().st_size for f in (root / golden.name).rglob("*") if f.is_file())
        print(f"{golden.name:28} {size / 1024:6.0f} KiB  router gap {facts['min_router_gap']:.1e}  "
              f"greedy gap {facts['min_greedy_gap']:.1e}", flush=True)
    total = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    print(f"total {total / 2**20:.2f} MiB")
    return 0


def find_seeds(goldens: list[Golden]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        for golden in goldens:
            for seed in range(100):
                try:
                    make(golden, seed, Path(temporary), SEED_MARGIN)
                except Rejected as reason:
                    print(f"  {golden.name} seed {seed}: {reason}", file=sys.stderr, flush=True)
                    continue
                print(f"{golden.name:28} seed={seed}{'' if seed == golden.seed else '   <- the table says otherwise'}",
                      flush=True)
                break
    return 0


def differences(committed: Path, remade: Path) -> tuple[list[str], list[str]]:
    """(errors, remarks) between two golden directories."""
    errors: list[str] = []
    remarks: list[str] = []
    old = {f.relative_to(committed) for f in committed.rglob("*") if f.is_file()}
    new = {f.relative_to(remade) for f in remade.rglob("*") if f.is_file()}
    for name in sorted(old ^ new):
        errors.append(f"{name}: only {'committed' if name in old else 'remade'}")
    for name in sorted(old & new):
        if (committed / name).read_bytes() == (remade / name).read_bytes():
            continue
        if name.name != "golden.safetensors":
            errors.append(f"{name}: bytes differ")
            continue
        was, now = load_file(committed / name), load_file(remade / name)
        for key in sorted(was.keys() | now.keys()):
            if key not in was or key not in now or was[key].shape != now[key].shape:
                errors.append(f"{name}: {key} missing or of another shape")
                continue
            worst = float((was[key].double() - now[key].double()).abs().max())
            if worst > (MAX_OTHER_CPU_DIFFERENCE if was[key].is_floating_point() else 0):
                errors.append(f"{name}: {key} differs by {worst:.1e}")
            elif worst > 0:
                remarks.append(f"{key} within {worst:.0e} (another CPU adds in another order)")
    return errors, remarks


def check(goldens: list[Golden], root: Path, everything: bool) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for golden in goldens:
            make(golden, golden.seed, Path(temporary))
            errors, remarks = differences(root / golden.name, Path(temporary) / golden.name)
            print(f"{golden.name:28} {'DIFFERS' if errors else 'same'}  {'; '.join(errors + remarks)}", flush=True)
            failed += bool(errors)
    if everything:
        for stray in sorted({d.name for d in root.iterdir()} - {golden.name for golden in GOLDENS}):
            print(f"{stray:28} is committed but not in the table")
            failed += 1
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "golden")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[g.name for g in GOLDENS])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--find-seeds", action="store_true")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    goldens = [g for g in GOLDENS if not arguments.only or g.name in arguments.only]
    if arguments.find_seeds:
        return find_seeds(goldens)
    if arguments.check:
        return check(goldens, arguments.out, everything=not arguments.only)
    return write_all(goldens, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
