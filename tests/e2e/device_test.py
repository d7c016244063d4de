"""A device beside the CPU: every policy, the same tokens; refusals."""

from __future__ import annotations

import json

import harness
from harness import DEMO, TestCase

POLICIES = ("balanced", "fiddler", "expert-cache", "stream", "static-layers", "cpu-experts")
RUN = ("run", DEMO, "-p", "Once upon a time", "-n", "24", "--temp", "0", "--json")
SLICES = 4 * 8 * 5  # of the demo model: layers, experts, slices of 96 KiB each


class Policies(TestCase):
    def test_same_tokens_with_room_for_a_quarter_of_the_experts(self) -> None:
        expected = self.succeed(*RUN).json()
        # All but the slots, as the refusal says, and a quarter of the slices.
        need = self.refuse(*RUN, "--device", "emulated", "--gpu-memory", "1MiB", mentions=("GPU memory", "need"))
        fixed_mib = float(need.split("workspace need ")[1].split(" MiB")[0])
        memory = f"{int((fixed_mib + 0.05) * 1024 + SLICES // 4 * 96)}KiB"
        for policy in POLICIES:
            for order in ((), ("--adversary", "1"), ("--adversary", "2")):
                run = self.succeed(*RUN, "--device", "emulated", "--gpu-memory", memory, "--policy", policy, *order)
                result = run.json()
                self.assertEqual(result["token_ids"], expected["token_ids"], policy)
                slices = result["expert_slices"]
                self.assertGreater(slices["resident"] + slices["fetched"] + slices["cpu"], 0)
                if policy == "cpu-experts":
                    self.assertEqual((slices["resident"], slices["fetched"]), (0, 0))
                if policy in ("expert-cache", "stream"):
                    self.assertEqual(slices["cpu"], 0)
                    self.assertGreater(slices["fetched"], 0)
                if policy == "static-layers":  # one of four layers
                    self.assertAlmostEqual(slices["hit_rate"], 0.25, delta=0.02)
                    self.assertEqual(slices["fetched"], 0)
                if policy == "stream":  # every expert of every layer, every step
                    self.assertEqual(slices["fetched"] + slices["idle_copies"], result["tokens"] * SLICES)

    def test_with_experts_on_disk_too(self) -> None:
        expected = self.succeed(*RUN).json()
        device = ("--device", "emulated", "--gpu-memory", "20MiB", "--packed-file", self.folder() / "experts.packed")
        error = self.refuse(*RUN, *device, "--ram", "40MiB", mentions=("--ram", "expected at least"))
        enough = int(error.split("at least ")[1].split("MiB")[0])
        for policy in ("balanced", "stream", "static-layers"):
            run = self.succeed(*RUN, *device, "--ram", f"{enough + 4}MiB", "--policy", policy)
            self.assertIn("room for", run.err)
            self.assertEqual(run.json()["token_ids"], expected["token_ids"], policy)

    def test_perplexity_is_the_same(self) -> None:
        text = self.folder() / "text.txt"
        text.write_text("Once there was a king who had three daughters, and the youngest was the fairest of all.")
        expected = self.succeed("eval", DEMO, "--text", text, "--arithmetic", "exact", "--json").json()
        result = self.succeed("eval", DEMO, "--text", text, "--arithmetic", "exact", "--json",
                              "--device", "emulated", "--gpu-memory", "24MiB").json()
        self.assertAlmostEqual(result["perplexity"], expected["perplexity"], places=3)

    def test_bench_runs_scenarios_on_a_model_that_is_loaded_once(self) -> None:
        scenarios = self.folder() / "scenarios.json"
        device = ("--device", "emulated", "--gpu-memory", "24MiB", "--repeat", "1", "--json")
        scenarios.write_text('[{"policy": "stream", "prompt": 20, "gen": 3},'
                             ' {"policy": "cpu-experts", "gen": 0}, {"batch": 3, "prompt": 9, "gen": 4}]')
        output = self.succeed("bench", DEMO, *device, "--scenarios", scenarios, "--prompt", "33").out.decode()
        streamed, prompt_only, batch = [json.loads(line) for line in output.splitlines()]
        self.assertEqual((streamed["policy"], streamed["decode"]["tokens"]), ("stream", 3))
        slices = streamed["decode"]["expert_slices"]
        self.assertEqual(slices["fetched"] + slices["idle_copies"], 3 * SLICES)
        self.assertEqual((prompt_only["prefill"]["tokens"], "decode" in prompt_only), (33, False))
        self.assertEqual(prompt_only["prefill"]["expert_slices"]["hit_rate"], 0)
        self.assertEqual((batch["policy"], batch["batch"]), ("balanced", 3))
        for result in (streamed, batch):
            self.assertGreater(result["decode"]["tokens_per_s"], 0)
            self.assertGreaterEqual(result["decode"]["step_ms"]["p99"], result["decode"]["step_ms"]["p50"])
        for content, mention in (("[]", "array"), ('[{"policy": "fastest"}]', "policy"), ('[{"promt": 3}]', "promt"),
                                 ('[{"prompt": 100000}]', "positions")):
            scenarios.write_text(content)
            self.refuse("bench", DEMO, *device, "--scenarios", scenarios, mentions=(str(scenarios), mention))

    def test_calibrations_of_it_are_another_devices(self) -> None:
        """Not even looked at: a damaged file goes unnoticed."""
        cache = self.folder()
        (cache / "fiddler").mkdir()
        (cache / "fiddler/calibration.json").write_text("damaged")
        run = harness.fiddler(*RUN, "--device", "emulated", "--gpu-memory", "24MiB", env={"XDG_CACHE_HOME": str(cache)})
        self.assertEqual(run.code, 0, run.err)
        self.assertNotIn("calibration", run.err)

    def test_refusals(self) -> None:
        self.refuse(*RUN, "--device", "emulated", mentions=("--gpu-memory",))
        self.refuse(*RUN, "--hardware", "abacus", mentions=("abacus", "rtx4090-ddr5"))
        self.refuse(*RUN, "--popularity", "nosuch.json", mentions=("nosuch.json",))
        for option in (("--gpu-memory", "1GiB"), ("--policy", "stream"), ("--hardware", "l4-8ch"), ("--adversary", "1")):
            self.refuse(*RUN, *option, "--device", "cpu", mentions=(option[0], "--device"))
            self.assertIn(f"no GPU is used, so {option[0]}", self.succeed(*RUN, *option).err)
        self.refuse(*RUN, "--device", "emulated", "--gpu-memory", "a lot", mentions=("--gpu-memory", "a lot"))
        self.refuse(*RUN, "--device", "emulated", "--gpu-memory", "20MiB", "--hardware", "cpu-only",
                    mentions=("--hardware", "GPU"))


if __name__ == "__main__":
    harness.main()
