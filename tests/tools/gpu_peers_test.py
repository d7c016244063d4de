#!/usr/bin/env python3
"""tools/gpu_peers against transformers, on a tiny Mixtral: skipped where PyTorch or transformers are not installed.

Run it with a Python that has them: venv/bin/python tests/tools/gpu_peers_test.py
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/gpu_peers"))

try:
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM
except ImportError:
    raise SystemExit("skipped: no torch or no transformers is installed") from None

import common  # noqa: E402
import fiddler_policy  # noqa: E402

CPU = torch.device("cpu")


class PublishedPolicy(unittest.TestCase):
    """The re-implementation computes what Mixtral is, whoever computes the experts."""

    @classmethod
    def setUpClass(cls):
        torch.manual_seed(1)
        cls.config = common.config_of("tiny-mixtral") | {"num_hidden_layers": 2}
        known = {key: value for key, value in cls.config.items() if key not in ("architectures", "model_type", "torch_dtype")}
        cls.reference = MixtralForCausalLM(MixtralConfig(**known)).float().eval()
        with torch.no_grad():
            for parameter in cls.reference.parameters():
                parameter.normal_(1.0, 0.1) if parameter.dim() == 1 else parameter.normal_(0.0, 0.08)
        cls.model = fiddler_policy.Model(cls.config, CPU, torch.float32, common.Filler(torch.float32), 60)
        cls.copy_weights()

    @classmethod
    def copy_weights(cls):
        weights, neurons = cls.reference.state_dict(), cls.config["intermediate_size"]
        cls.model.embedding, cls.model.head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
        cls.model.norm = weights["model.norm.weight"]
        for index, layer in enumerate(cls.model.layers):
            named = {
                name.removeprefix(f"model.layers.{index}."): value
                for name, value in weights.items()
                if name.startswith(f"model.layers.{index}.")
            }
            layer.q, layer.k, layer.v, layer.o = (named[f"self_attn.{name}_proj.weight"] for name in "qkvo")
            layer.gate = named["mlp.gate.weight"]
            layer.norms = torch.stack((named["input_layernorm.weight"], named["post_attention_layernorm.weight"]))
            both = named["mlp.experts.gate_up_proj"]  # [experts, 2 * neurons, hidden]
            parts = (both[:, :neurons], both[:, neurons:], named["mlp.experts.down_proj"])
            layer.experts = torch.stack([part.reshape(len(part), -1) for part in parts], 1).contiguous()

    def test_logits(self):
        ids = common.prompt_of(12, self.config["vocab_size"])
        with torch.inference_mode():
            expected = self.reference(input_ids=ids).logits[0]
            # Whether a token runs on the CPU, is fetched for or hits: the same.
            for resident, cpu_token_s, fetch_s, way in (
                (0, 0.0, 0.0, "fetched"),
                (0, 1e-9, 1.0, "cpu"),
                (8, 1e-9, 1.0, "resident"),
            ):
                for layer in self.model.layers:
                    layer.resident = {expert: layer.experts[expert] for expert in range(resident)}
                self.model.cpu_token_s, self.model.fetch_s = cpu_token_s, fetch_s
                self.model.reset(12)
                got = [self.model.logits(ids[:, :9])] + [self.model.logits(ids[:, at : at + 1]) for at in range(9, 12)]
                torch.testing.assert_close(torch.cat(got), expected[8:], rtol=1e-4, atol=1e-4)
                self.assertEqual({name for name, count in self.model.ran.items() if count}, {way})

    def test_popular_experts_stay(self):
        for index, layer in enumerate(self.model.layers):
            layer.resident, layer.counts = {}, [10 * index + expert for expert in range(8)]
        room = (
            self.model.bytes_on_gpu + fiddler_policy.SPARE_BYTES + 4.5 * self.model.expert_bytes
        )  # one of them for fetched ones
        self.assertEqual(self.model.place(room), 3)
        self.assertEqual([sorted(layer.resident) for layer in self.model.layers], [[], [5, 6, 7]])


class Filling(unittest.TestCase):
    def test_no_value_is_left_out(self):
        tensor = torch.full((3, common.BLOCK // 2), 9.0)
        common.Filler(torch.float32)(tensor)
        self.assertLess(tensor.abs().max(), 1)
        self.assertGreater(tensor.std(), 0.9 * common.SCALE)


if __name__ == "__main__":
    unittest.main()
