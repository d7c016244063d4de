"""`fiddler plan`: from config.json alone, in under two seconds; what does not fit says what would."""

from __future__ import annotations

import json
import subprocess
import sys
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
        self.assertIn("does not fit in RAM: ", text)
        self.assertIn("of 256 experts in RAM and the others from disk", text)
        self.assertTrue(plan["runs_from_disk"])
        self.assertTrue(50 < plan["experts_in_ram"] < 90, plan)
        self.assertTrue(self.plan("mixtral-8x7b", "--hardware", small, "--quant", "int4")["fits"])

    def test_predicts_what_a_run_takes(self) -> None:
        """Of a model in bfloat16 and one in float32: what the process had at most, within what was predicted."""
        for model in (harness.DEMO, harness.GOLDENS / "mixtral-base/model"):
            ids = ",".join(["5"] * 40)
            run = [harness.FIDDLER, "run", str(model), "--prompt-ids", ids, "-n", "20", "--ignore-eos", "--json"]
            script = (
                "import resource, subprocess, sys\n"
                "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
            )
            peak = int(subprocess.run([sys.executable, "-c", script, *run], check=True, capture_output=True).stdout)
            plan = self.plan(model, "--hardware", "cpu-only", "--prompt", "40", "--gen", "20")
            if harness.is_sanitized():  # which take several times as much
                continue
            self.assertLessEqual(peak, plan["ram_peak_bytes"], model)
            self.assertGreater(peak, plan["ram_peak_bytes"] - 60 * (1 << 20), model)
            inspected = self.succeed("inspect", model, "--json").json()
            self.assertGreaterEqual(plan["ram"]["weight_bytes"], inspected["bytes"], model)

    def test_models_of_dense_layers_are_refused_where_there_is_nothing_to_decide(self) -> None:
        folder = self.copy_of(harness.GOLDENS / "qwen3-base/model")
        config = json.loads((folder / "config.json").read_text())
        config["mlp_only_layers"] = list(range(config["num_hidden_layers"]))
        (folder / "config.json").write_text(json.dumps(config))
        for weights in folder.glob("*.safetensors*"):
            weights.unlink()
        for verb in ("plan", "simulate"):
            self.refuse(verb, folder, "--hardware", "l4-8ch", mentions=("experts",))

    def test_this_machine(self) -> None:
        plan = self.plan(harness.DEMO)
        self.assertEqual(plan["vram_peak_bytes"], 0)
        self.assertGreater(plan["tokens_per_s"], 0)
        self.assertIn("this machine", plan["hardware"])

    def test_refusals(self) -> None:
        self.refuse("plan", "mixtral-8x7b", "--hardware", "abacus", mentions=("abacus", "rtx4090-ddr5"))
        self.refuse("plan", self.folder(), mentions=("config.json",))
        self.refuse("plan", "mixtral-8x7b", "--gpu-memory", "24GiB", mentions=("--gpu-memory", "--hardware"))
        self.refuse("plan", "olmoe-1b-7b", "--hardware", "l4-8ch", "--prompt", "5000", mentions=("4096", "5128"))
        self.refuse("plan", "mixtral-8x7b", "--hardware", "l4-8ch", "--batch", "4", mentions=("--batch", "--scenario"))
        self.refuse("plan", "mixtral-8x7b", "--hardware", "l4-8ch", "--beam", "4", mentions=("--beam", "--scenario"))


if __name__ == "__main__":
    harness.main()
