"""`fiddler plan`: from config.json alone, in under two seconds; what does not fit says what would."""

from __future__ import annotations

import json
import time

import harness
from harness import REPOSITORY, TestCase

CONFIGS = REPOSITORY / "tests/oracle/configs"
GIB = 1 << 30


class Plan(TestCase):
    def plan(self, *arguments) -> dict:
        return self.succeed("plan", *arguments, "--json").json()

    def test_published_configs(self) -> None:
        for name, resident in (("mixtral-8x7b", (0.2, 0.3)), ("qwen3-30b-a3b", (0.3, 0.45)), ("olmoe-1b-7b", (1, 1))):
            folder = self.folder() / name
            folder.mkdir()
            config = folder / "config.json"
            config.write_bytes((CONFIGS / f"{name}.json").read_bytes())
            started = time.monotonic()
            plan = self.plan(config, "--hardware", "rtx4090-ddr5")
            self.assertLess(time.monotonic() - started, 2)
            self.assertIs(plan["fits"], True)
            self.assertTrue(resident[0] <= plan["resident_fraction"] <= resident[1], plan)
            self.assertTrue(0 < plan["tokens_per_s"] <= 1.0001 * plan["ceiling_tokens_per_s"], plan)
            self.assertLessEqual(plan["vram_peak_bytes"], 24 * GIB)
            self.assertLessEqual(plan["ram_peak_bytes"], 128 * GIB)
            gpu = plan["gpu"]
            parts = gpu["dense_bytes"] + gpu["kv_bytes"] + gpu["workspace_bytes"]
            self.assertEqual(plan["vram_peak_bytes"], parts + gpu["expert_slots"] * gpu["slice_bytes"])

    def test_a_geometry_and_its_config_are_the_same(self) -> None:
        by_name = self.plan("mixtral-8x7b", "--hardware", "l4-8ch")
        folder = self.folder()
        (folder / "config.json").write_bytes((CONFIGS / "mixtral-8x7b.json").read_bytes())
        by_config = self.plan(folder, "--hardware", "l4-8ch")
        for key in ("vram_peak_bytes", "ram_peak_bytes", "tokens_per_s", "resident_fraction"):
            self.assertEqual(by_name[key], by_config[key])

    def test_longer_contexts_leave_less_for_experts(self) -> None:
        short = self.plan("mixtral-8x7b", "--hardware", "rtx4090-ddr5", "--gen", "16")
        long = self.plan("mixtral-8x7b", "--hardware", "rtx4090-ddr5", "--prompt", "30000", "--gen", "16")
        self.assertLess(long["resident_fraction"], short["resident_fraction"])
        self.assertGreater(long["gpu"]["kv_bytes"], 100 * short["gpu"]["kv_bytes"])

    def test_what_does_not_fit_says_what_would(self) -> None:
        plan = self.plan("mixtral-8x7b", "--hardware", "rtx4090-ddr5", "--gpu-memory", "2GiB")
        self.assertEqual((plan["fits"], plan["tokens_per_s"]), (False, 0))
        memory = plan["reason"].split("--gpu-memory ")[1].split("GiB")[0]
        self.assertTrue(self.plan("mixtral-8x7b", "--hardware", "rtx4090-ddr5", "--gpu-memory", memory + "GiB")["fits"])
        small = self.folder() / "small.json"
        small.write_text(json.dumps({"name": "small", "cpu_read_gbps": 50, "dram_gbps": 50, "cpu_gflops": 500,
                                     "ram_bytes": "32GiB", "handoff_seconds": 1e-5}))
        plan = self.plan("mixtral-8x7b", "--hardware", small)
        self.assertIs(plan["fits"], False)
        self.assertIn("RAM", plan["reason"])
        text = self.succeed("plan", "mixtral-8x7b", "--hardware", small).out.decode()
        self.assertIn("does not fit: RAM", text)
        self.assertTrue(self.plan("mixtral-8x7b", "--hardware", small, "--quant", "int4")["fits"])

    def test_this_machine(self) -> None:
        plan = self.plan(harness.DEMO)
        self.assertEqual(plan["vram_peak_bytes"], 0)
        self.assertGreater(plan["tokens_per_s"], 0)
        self.assertIn("this machine", plan["hardware"])

    def test_refusals(self) -> None:
        self.refuse("plan", "mixtral-8x7b", "--hardware", "abacus", mentions=("abacus", "rtx4090-ddr5"))
        self.refuse("plan", self.folder(), mentions=("config.json",))


if __name__ == "__main__":
    harness.main()
