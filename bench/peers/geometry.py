"""What to export: config.json of a built-in geometry, and every tensor it implies in both file formats.

The numbers are read from src/model/arch/geometries.cc, the product's own list, so that there is no second copy.
Standard library only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src/model/arch/geometries.cc"

# Small enough for a test, and of a shape that every format and kernel of the peers takes: rows in multiples of 256.
TINY = {
    "tiny-mixtral": (
        "mixtral-4l",
        {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 512},
    ),
    "tiny-qwen3": (
        "qwen3-12l",
        {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 16,
         "num_experts_per_tok": 4, "vocab_size": 512},
    ),
}  # fmt: skip


class PeersError(Exception):
    """Outside input or the machine failed; the message is one line."""


def geometries() -> dict[str, dict]:
    """{name: config.json} of the built-in geometries, cut to their layers and vocabulary."""
    source = SOURCE.read_text()
    texts = dict(re.findall(r'constexpr std::string_view (\w+) = R"\((.*?)\)";', source, re.DOTALL))
    rows = re.findall(
        r'\{\.name = "([^"]+)", \.config_json = (\w+), \.layers = (\d+), \.vocab_size = (\d+)\}', source
    )
    if not rows or any(text not in texts for _, text, _, _ in rows):
        raise PeersError(f"{SOURCE}: expected the table of built-in geometries, found {len(rows)} rows")
    configs = {}
    for name, text, layers, vocab_size in rows:
        config = json.loads(texts[text])
        if int(layers):
            config["num_hidden_layers"] = int(layers)
        if int(vocab_size):
            config["vocab_size"] = int(vocab_size)
        configs[name] = config
    return configs


def config_of(name: str) -> dict:
    """config.json of a built-in or tiny geometry; token ids that its vocabulary does not have are left out."""
    known = geometries()
    base, changes = TINY.get(name, (name, {}))
    if base not in known:
        raise PeersError(f"geometry '{name}': expected one of {', '.join([*known, *TINY])}")
    config = known[base] | changes
    if config["model_type"] not in NAMES:
        raise PeersError(f"geometry '{name}': its family {config['model_type']} is not exported yet")
    for field in ("bos_token_id", "eos_token_id"):
        if config.get(field, 0) >= config["vocab_size"]:
            del config[field]
    return config | {"torch_dtype": "bfloat16", "tie_word_embeddings": False}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a Hugging Face checkpoint."""

    name: str
    shape: tuple[int, ...]

    @property
    def is_norm(self) -> bool:
        return len(self.shape) == 1

    @property
    def count(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the GGUF file: one of the checkpoint, or those of all experts stacked."""

    name: str
    parts: tuple[Tensor, ...]
    stacked: bool = False
    float32: bool = False  # norms and routers, as the peers' own converter stores them
    rotated_heads: int = 0  # rows are reordered for rotary embedding of neighbours, so many heads

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape) if self.stacked else self.parts[0].shape


# Per family: (router, prefix of an expert, (gate, up, down), heads have norms, GGUF architecture,
# query and key rows are reordered in GGUF).
NAMES = {
    "mixtral": ("block_sparse_moe.gate", "block_sparse_moe.experts", ("w1", "w3", "w2"), False, "llama", True),
    "qwen3_moe": ("mlp.gate", "mlp.experts", ("gate_proj", "up_proj", "down_proj"), True, "qwen3moe", False),
}


@dataclass(frozen=True)
class Geometry:
    name: str
    config: dict

    def __getattr__(self, field: str):
        try:
            return self.config[field]
        except KeyError:
            raise AttributeError(field) from None

    @property
    def num_heads(self) -> int:
        return self.config["num_attention_heads"]

    @property
    def num_kv_heads(self) -> int:
        return self.config["num_key_value_heads"]

    @property
    def head_size(self) -> int:
        return self.config.get("head_dim", self.hidden_size // self.num_heads)

    @property
    def num_moe_experts(self) -> int:
        return self.config.get("num_experts") or self.config["num_local_experts"]

    @property
    def expert_width(self) -> int:
        return self.config.get("moe_intermediate_size") or self.config["intermediate_size"]

    @property
    def gguf_arch(self) -> str:
        return NAMES[self.model_type][4]

    def gguf_tensors(self) -> list[GgufTensor]:
        """Everything, in the order of both files."""
        router, experts, (gate, up, down), head_norms, _, rotated = NAMES[self.model_type]
        hidden, width = self.hidden_size, self.expert_width
        vocabulary = (self.vocab_size, hidden)
        result = [GgufTensor("token_embd.weight", (Tensor("model.embed_tokens.weight", vocabulary),))]

        for layer in range(self.num_hidden_layers):

            def one(gguf: str, name: str, *shape: int, layer: int = layer, **options) -> GgufTensor:
                tensor = Tensor(f"model.layers.{layer}.{name}.weight", shape)
                options = {"float32": tensor.is_norm} | options
                return GgufTensor(f"blk.{layer}.{gguf}.weight", (tensor,), **options)

            def stacked(gguf: str, name: str, *shape: int, layer: int = layer) -> GgufTensor:
                prefix = f"model.layers.{layer}.{experts}"
                parts = [Tensor(f"{prefix}.{e}.{name}.weight", shape) for e in range(self.num_moe_experts)]
                return GgufTensor(f"blk.{layer}.{gguf}.weight", tuple(parts), stacked=True)

            q_rows, kv_rows = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
            result += [
                one("attn_norm", "input_layernorm", hidden),
                one("attn_q", "self_attn.q_proj", q_rows, hidden, rotated_heads=self.num_heads * rotated),
                one("attn_k", "self_attn.k_proj", kv_rows, hidden, rotated_heads=self.num_kv_heads * rotated),
                one("attn_v", "self_attn.v_proj", kv_rows, hidden),
                one("attn_output", "self_attn.o_proj", hidden, q_rows),
            ]
            if head_norms:
                result += [
                    one("attn_q_norm", "self_attn.q_norm", self.head_size),
                    one("attn_k_norm", "self_attn.k_norm", self.head_size),
                ]
            result += [
                one("ffn_norm", "post_attention_layernorm", hidden),
                one("ffn_gate_inp", router, self.num_moe_experts, hidden, float32=True),
                stacked("ffn_gate_exps", gate, width, hidden),
                stacked("ffn_up_exps", up, width, hidden),
                stacked("ffn_down_exps", down, hidden, width),
            ]
        return result + [
            GgufTensor("output_norm.weight", (Tensor("model.norm.weight", (hidden,)),), float32=True),
            GgufTensor("output.weight", (Tensor("lm_head.weight", vocabulary),)),
        ]

    def tensors(self) -> list[Tensor]:
        return [part for tensor in self.gguf_tensors() for part in tensor.parts]


def load(name: str) -> Geometry:
    return Geometry(name, config_of(name))
