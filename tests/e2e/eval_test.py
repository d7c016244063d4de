"""The program computes what transformers computes: tiny models of every family, and the demo model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import harness
from harness import DEMO, Golden, TestCase, golden_names

EXACT = ("--arithmetic", "exact")  # as transformers in float32; fast rounds activations too
LOSS_TOLERANCE = 1e-4  # logits within 1e-4 (src/engine/golden_test.cc), so is the log of their softmax


class GoldenModels(TestCase):
    def test_loss_of_every_token(self) -> None:
        for name in golden_names():
            with self.subTest(name):
                golden = Golden(name)
                ids = self.folder() / "ids.txt"
                ids.write_text(" ".join(map(str, golden.ids)))
                result = self.succeed("eval", golden.model, "--ids", ids, *EXACT, "--per-token", "--json").json()
                expected = golden.losses()
                self.assertEqual(result["tokens"], len(expected))
                self.assertEqual(len(result["nll"]), len(expected))
                worst = max(abs(a - b) for a, b in zip(result["nll"], expected))
                self.assertLess(worst, LOSS_TOLERANCE)
                mean = sum(expected) / len(expected)
                self.assertAlmostEqual(result["perplexity"] / math.exp(mean), 1, delta=LOSS_TOLERANCE)

    def test_greedy_continuation(self) -> None:
        for name in golden_names():
            with self.subTest(name):
                golden = Golden(name)
                ids = ",".join(map(str, golden.ids))
                count = str(len(golden.greedy_ids))
                run = self.succeed(
                    "run", golden.model, "--prompt-ids", ids, "-n", count, "--ignore-eos", *EXACT, "--json"
                )
                self.assertEqual(run.json()["token_ids"], golden.greedy_ids)

    def test_windows(self) -> None:
        """A text is cut into windows; the first token of each is not scored."""
        golden = Golden("mixtral-base")
        ids = self.folder() / "ids.txt"
        ids.write_text("\n".join(map(str, golden.ids[:21])))
        for context, scored in ((21, 20), (20, 19), (7, 18), (2, 10)):
            result = self.succeed("eval", golden.model, "--ids", ids, "--context", str(context), "--json").json()
            self.assertEqual(result["tokens"], scored, f"context {context}")

    def test_ids_that_are_none(self) -> None:
        golden = Golden("mixtral-base")
        for text, mention in (("1 2 x", "'x'"), ("1 -2", "'-2'"), ("5 131", "'131'"), ("7", "two tokens"), ("", "")):
            ids = self.folder() / "ids.txt"
            ids.write_text(text)
            self.refuse("eval", golden.model, "--ids", ids, mentions=(mention,))
        self.refuse("eval", golden.model, "--ids", "/nowhere/ids", mentions=("/nowhere/ids",))
        self.refuse("eval", golden.model, mentions=("--text",))


class DemoModel(TestCase):
    def held_out_part(self) -> Path:
        """A fifth of the held-out text: --compare computes everything twice, and a sanitizer's kernels are slow."""
        text = self.folder() / "text.txt"
        text.write_text((DEMO / "heldout.txt").read_text()[:60_000])
        return text

    def test_perplexity_to_four_digits(self) -> None:
        expected = json.loads((DEMO / "golden.json").read_text())["perplexity"]
        result = self.succeed("eval", DEMO, "--context", str(expected["context"]), *EXACT, "--json").json()
        self.assertEqual(result["tokens"], expected["tokens"])
        self.assertEqual(f"{result['perplexity']:.4g}", f"{expected['perplexity']:.4g}")

    def test_quantization(self) -> None:
        """Rounded weights: how far from the stored ones, and that --compare says so."""
        text = self.held_out_part()
        # Measured 0.0012 and 0.035 nats, 98.1% and 87.6%: a small model of 4,096 tokens has little to spare.
        for name, divergence, agreement, worse in (("int8", 0.003, 0.97, 1.002), ("int4", 0.06, 0.84, 1.04)):
            with self.subTest(name):
                result = self.succeed("eval", DEMO, "--text", text, "--quant", name, "--compare", "--json").json()
                reference = result["reference"]
                self.assertLess(reference["mean_kl"], divergence)
                self.assertGreater(reference["mean_kl"], divergence / 10)
                self.assertGreaterEqual(reference["max_kl"], reference["mean_kl"])
                self.assertGreater(reference["top1_agreement"], agreement)
                self.assertLess(result["perplexity"], worse * reference["perplexity"])
                self.assertGreater(result["perplexity"], reference["perplexity"])
        stored = self.succeed("eval", DEMO, "--text", text, *EXACT, "--json").json()
        self.assertNotIn("reference", stored)
        self.assertEqual(stored["perplexity"], reference["perplexity"])
        self.refuse("eval", DEMO, *EXACT, "--compare", mentions=("--compare", "--quant"))

    def test_fast_arithmetic(self) -> None:
        """Activations rounded to bf16 where the processor multiplies it: next to nothing changes."""
        if harness.is_thread_sanitized():
            self.skipTest("seconds of arithmetic, a minute under this sanitizer")
        result = self.succeed("eval", DEMO, "--text", self.held_out_part(), "--compare", "--json").json()
        reference = result["reference"]
        self.assertLess(reference["mean_kl"], 5e-4)  # measured 0.00012 nats, 99.7%
        self.assertGreater(reference["top1_agreement"], 0.99)
        self.assertLess(abs(result["perplexity"] / reference["perplexity"] - 1), 5e-4)

    def test_greedy_text(self) -> None:
        for expected in json.loads((DEMO / "golden.json").read_text())["greedy"]:
            with self.subTest(expected["prompt"]):
                arguments = ("run", DEMO, "-p", expected["prompt"], "-n", str(len(expected["token_ids"])))
                result = self.succeed(*arguments, *EXACT, "--json").json()
                self.assertEqual(result["token_ids"], expected["token_ids"])
                self.assertEqual(result["text"], expected["text"])
                self.assertEqual(result["prompt_tokens"], len(expected["prompt_ids"]))
                self.assertEqual(result["tokens"], len(expected["token_ids"]))


if __name__ == "__main__":
    harness.main()
