"""`fiddler simulate`: the JSON contract, budgets that are kept, traces, and input that cannot be."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import harness
from harness import GOLDENS, REPOSITORY, TestCase, fiddler

POLICIES = ("balanced", "fiddler", "expert-cache", "stream", "static-layers", "cpu-experts")
MIXTRAL = ("simulate", "mixtral-8x7b", "--hardware", "rtx4090-ddr5", "--gpu-memory", "24GiB")


def write_trace(path: Path, layers: int, experts: int, top_k: int, tokens: list[list[int]]) -> None:
    """One token a step; every layer chooses the same experts (sim/routing_trace.h)."""
    data = b"FIDROUTE" + struct.pack("<4I2Q", 1, layers, experts, top_k, len(tokens), len(tokens))
    data += struct.pack(f"<{len(tokens)}I", *[1] * len(tokens))
    for chosen in tokens:
        data += struct.pack(f"<{top_k}H", *chosen) * layers
    checksum = 0xCBF29CE484222325
    for byte in data:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    path.write_bytes(data + struct.pack("<Q", checksum))


class Simulate(TestCase):
    def simulate(self, *arguments: str | Path) -> dict:
        return self.succeed(*arguments, "--json").json()

    def test_keys_and_bounds(self) -> None:
        seconds = {}
        for policy in POLICIES:
            result = self.simulate(*MIXTRAL, "--policy", policy, "--prompt", "32", "--gen", "16")
            self.assertIs(result["simulated"], True)
            self.assertAlmostEqual(result["tokens_per_s"], 16 / result["seconds"])
            self.assertLess(result["ttft_s"], result["seconds"])
            self.assertTrue(0 <= result["hit_rate"] < 1)
            self.assertTrue(0 < result["percent_of_ceiling"] <= 100.0001, result["percent_of_ceiling"])
            self.assertAlmostEqual(result["ceiling_tokens_per_s"] * result["percent_of_ceiling"] / 100, result["tokens_per_s"])
            self.assertLessEqual(result["vram_peak_bytes"], 24 << 30)
            for phase in ("prompt", "generation"):
                for side, share in result[phase]["time_shares"].items():
                    self.assertTrue(0 <= share <= 1.0001, (policy, phase, side, share))
            seconds[policy] = result["seconds"]
        self.assertEqual(min(seconds, key=seconds.get), "balanced")

    def test_every_scenario_and_option(self) -> None:
        alone = self.simulate(*MIXTRAL, "--gen", "8")
        self.assertEqual(alone, self.simulate(*MIXTRAL, "--gen", "8", "--seed", "0", "--routing", "mixtral-8x7b"))
        self.assertNotEqual(alone["seconds"], self.simulate(*MIXTRAL, "--gen", "8", "--seed", "1")["seconds"])
        self.assertGreater(self.simulate(*MIXTRAL, "--gen", "8", "--serial")["seconds"], alone["seconds"])
        self.assertGreater(self.simulate(*MIXTRAL, "--gen", "8", "--quant", "int4")["tokens_per_s"], 2 * alone["tokens_per_s"])
        prompt = self.simulate(*MIXTRAL, "--scenario", "prefill", "--prompt", "1024", "--chunk", "256")
        self.assertEqual(prompt["prompt"]["steps"], 4)
        self.assertNotIn("generation", prompt)
        beam = self.simulate(*MIXTRAL, "--scenario", "beam", "--beam", "8", "--gen", "8")
        self.assertEqual((beam["prompt"]["steps"], beam["generation"]["steps"]), (1, 7))
        self.assertAlmostEqual(beam["tokens_per_s"], 8 / beam["seconds"])
        batch = self.simulate(*MIXTRAL, "--scenario", "batch", "--batch", "3", "--gen", "8")
        self.assertEqual(batch["prompt"]["steps"], 3)
        self.assertAlmostEqual(batch["tokens_per_s"], 24 / batch["seconds"])

    def test_other_models_and_machines(self) -> None:
        for model in ("qwen3-12l", "olmoe-1b-7b", GOLDENS / "qwen2-base/model", GOLDENS / "mixtral-base/model/config.json"):
            for hardware in ("l4-8ch", "cpu-only", REPOSITORY / "bench/hardware/fiddler-paper-env1.json"):
                result = self.simulate("simulate", model, "--hardware", hardware, "--prompt", "8", "--gen", "4")
                self.assertTrue(0 < result["percent_of_ceiling"] <= 100.0001)
                if hardware == "cpu-only":
                    self.assertEqual((result["slots"], result["hit_rate"], result["vram_peak_bytes"]), (0, 0, 0))

    def test_says_that_it_is_simulated(self) -> None:
        text = self.succeed(*MIXTRAL, "--gen", "4").out.decode()
        self.assertTrue(text.startswith("simulated, not measured: mixtral-8x7b on rtx4090-ddr5"), text)

    def test_traces(self) -> None:
        trace = self.folder() / "trace"
        write_trace(trace, 32, 8, 2, [[0, 1]] * 12)
        run = (*MIXTRAL, "--trace", trace, "--prompt", "4", "--policy", "expert-cache")
        self.assertGreater(self.simulate(*run, "--gen", "8")["hit_rate"], 0.85)  # but for what has no slot
        self.refuse(*run, "--gen", "10", mentions=("trace", "its 12", "--prompt"))
        write_trace(trace, 32, 8, 1, [[0]] * 12)
        self.refuse(*run, mentions=(str(trace), "2 of 8", "1 of 8"))

    def test_refusals(self) -> None:
        self.refuse("simulate", "mixtral-8x7b", "--hardware", "abacus", mentions=("abacus", "rtx4090-ddr5"))
        self.refuse("simulate", "mixtral-8x7b", "--hardware", "./abacus.json", mentions=("abacus.json",))
        self.refuse(*MIXTRAL[:-1], "25GiB", mentions=("--gpu-memory", "24.0 GiB", "25GiB"))
        self.refuse(*MIXTRAL[:-1], "2GiB", mentions=("GPU memory", "would fit"))
        self.refuse("simulate", "mixtral-8x7b", "--hardware", "cpu-only", "--gpu-memory", "2GiB", mentions=("--gpu-memory",))
        self.refuse(*MIXTRAL, "--routing", "random", mentions=("random", "olmoe-1b-7b"))
        self.assertEqual(fiddler(*MIXTRAL, "--policy", "best").code, 2)
        self.assertEqual(fiddler(*MIXTRAL, "--gen", "0").code, 2)
        self.assertEqual(fiddler("simulate", "mixtral-8x7b").code, 2)


if __name__ == "__main__":
    harness.main()
