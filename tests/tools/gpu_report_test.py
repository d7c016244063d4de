#!/usr/bin/env python3
"""tools/gpu_report and tools/sim_vs_real on made-up figures: python3 gpu_report_test.py PATH-OF-FIDDLER [unittest arguments]."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

import gpu_sample as sample  # noqa: E402
from gpu import compare, limits, report  # noqa: E402
from gpu.chart import draw  # noqa: E402

FIDDLER = None  # set at the end


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, content, name="trial-gpu.json"):
        path = self.folder / name
        path.write_text(json.dumps(content))
        return path

    def call(self, main, *arguments):
        """Exit code and what was printed."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([str(argument) for argument in arguments])
        return code, said.getvalue()


class Tables(unittest.TestCase):
    def setUp(self):
        self.text = report.render(sample.trial())

    def row(self, start, text=None):
        (line,) = [line for line in (text or self.text).splitlines() if line.startswith(f"| {start} |")]
        return [cell.strip() for cell in line.strip("|").split("|")]

    def test_every_policy_beside_its_ceiling(self):
        balanced = self.row("balanced")
        # 75% of 20 GB a token are missing: 15 GB through 150 GB/s of memory are 10 tokens/s.
        self.assertEqual(balanced, ["balanced", "0.50", "125", "64", "25%", "8.00", "120", "80%", "10.00", "80%"])
        self.assertEqual(self.row("stream")[-1], "5%")

    def test_ceiling_of_a_gpu_that_is_slower_than_the_host(self):
        known = limits.limits_of(sample.trial())
        self.assertAlmostEqual(known.decode_ceiling(sample.MODEL, 1.0), 2500 / 23)
        self.assertAlmostEqual(known.decode_ceiling(sample.MODEL, 0.0), 150 / 20)

    def test_targets(self):
        targets = ("2x `cpu-experts`", "2x `static-layers`", "8x `expert-cache`", "19x `stream`")
        reached = [self.row(f"at least {target}, decoding")[1:] for target in targets]
        self.assertEqual(reached, [["1.8x", "**no**"], ["2.0x", "yes"], ["10.0x", "yes"], ["16.0x", "**no**"]])
        self.assertEqual(self.row("more than 3 tokens/s from end to end")[-1], "yes")

    def test_a_cut_model_reaches_no_absolute_target(self):
        content = sample.trial()
        content["steps"][4]["data"]["model"] = sample.MODEL | {"layers": 4, "why_cut": "no room"}
        text = report.render(content)
        self.assertIn("**4 of 32 layers** (no room)", text)
        self.assertEqual(self.row("more than 3 tokens/s from end to end", text)[-1], "a cut model cannot say")
        self.assertEqual(self.row("a peer", text)[-1], "another cut")

    def test_prompts_batches_peers(self):
        self.assertEqual(self.row("512"), ["512", "**1.50**", "", "", "2.00", "", ""])
        self.assertEqual(self.row("32 / 32 x 4")[1], f"**{128 / (1 + 31 * 0.25):.2f}**")
        self.assertEqual(self.row("norm")[1:], ["12.3", ""])
        self.assertEqual(self.row("attend")[1:], ["", "71.0"])
        self.assertEqual(self.row("a peer")[-1], f"{64 / (0.5 + 63 / 8) / 2:.1f}x")

    def test_what_is_wrong_or_missing_is_said(self):
        self.assertIn("`cuda_test` on the device: 12 tests ran, 1 failed (Norm.Rms)", self.text)
        content = sample.trial()
        content["steps"][1]["data"]["tests"][0]["device"] = None
        self.assertIn("`cuda_test` **on no device**", report.render(content))
        self.assertIn("23 of 24 runs gave the CPU's tokens", self.text)
        self.assertIn("- `llama-bench`: skipped: none was given", self.text)
        self.assertIn("- 1 scenarios failed", self.text)

    def test_a_trial_that_was_cut_short(self):
        content = sample.trial()
        for kept in range(len(content["steps"])):
            self.assertTrue(report.render(content | {"steps": content["steps"][:kept]}))
            ElementTree.fromstring(draw(content | {"steps": content["steps"][:kept]}))
        content["steps"] = [entry for entry in content["steps"] if entry["name"] != "calibrate"]
        self.assertIn("Nothing was calibrated", report.render(content))
        self.assertEqual(self.row("balanced", report.render(content))[-2:], ["", ""])

    def test_chart(self):
        root = ElementTree.fromstring(draw(sample.trial()))
        words = [element.text for element in root.iter() if element.text]
        for rate in sample.RATES.values():
            self.assertIn(f"{rate:.1f}", words)
        self.assertNotIn("DRY RUN", " ".join(words))
        dry = sample.trial() | {"kind": "gpu-trial dry run", "dry_run": True}
        self.assertIn("DRY RUN", draw(dry))
        self.assertIn("DRY RUN", report.render(dry).splitlines()[0])


class Report(InFolder):
    def test_into_the_document(self):
        document = self.folder / "performance.md"
        document.write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
        with mock.patch.object(report, "DOCUMENT", document):
            self.assertEqual(self.call(report.main, self.write(sample.trial())), (0, ""))
            text = document.read_text()
            self.assertTrue(text.startswith("before\n<!-- gpu -->\n\nSome GPU") and text.endswith("<!-- /gpu -->\nafter\n"))
            self.assertNotIn("old", text)
            self.assertTrue((self.folder / "gpu.svg").exists())
            document.write_text("no marks")
            self.assertEqual(self.call(report.main, self.write(sample.trial()))[0], 1)

    def test_marks_are_in_the_document(self):
        self.assertTrue(report.insert(report.DOCUMENT.read_text(), "x", ""))

    def test_a_dry_run_stays_out_of_the_documents(self):
        dry = self.write(sample.trial() | {"kind": "gpu-trial dry run", "dry_run": True})
        before = report.DOCUMENT.read_text()
        for arguments in ((), ("--out", report.REPOSITORY / "docs"), ("--out", report.REPOSITORY / "docs/deeper")):
            code, said = self.call(report.main, dry, *arguments)
            self.assertEqual(code, 1)
            self.assertIn("dry run", said)
        self.assertEqual(report.DOCUMENT.read_text(), before)
        self.assertEqual(self.call(report.main, dry, "--out", self.folder / "out")[0], 0)
        self.assertIn("DRY RUN", (self.folder / "out/gpu.md").read_text())

    def test_other_files(self):
        for text, reason in (("{}", "kind"), ("[]", "kind"), ("{", "Expecting"), (None, "No such file")):
            path = self.folder / "other.json"
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
            code, said = self.call(report.main, path)
            self.assertEqual((code, reason in said), (1, True), said)


class SimulatorAgainstReality(InFolder):
    def predicted(self, factor):
        """A trial in which all was `factor` times as slow as the simulator says of the very same hardware."""
        hardware = self.folder / "hardware.json"
        hardware.write_text(json.dumps({"name": "sample"} | sample.HARDWARE))
        scenarios = []
        for policy, prompt, gen, batch in (
            ("balanced", 32, 8, 1),
            ("cpu-experts", 32, 8, 1),
            ("fiddler", 512, 1, 1),
            ("balanced", 16, 4, 2),
        ):
            asked = {"policy": policy, "prompt": prompt, "gen": gen, "batch": batch}
            said = compare.simulate(FIDDLER, Path("mixtral-8x7b"), hardware, "24GiB", asked)
            scenarios.append(
                sample.scenario(policy, prompt, gen, factor * said["ttft_s"], factor * said.get("inter_token_s", 0), batch)
            )
        return self.write(sample.trial(scenarios))

    def test_a_machine_that_is_as_predicted(self):
        code, said = self.call(compare.main, FIDDLER, self.predicted(1.0))
        self.assertEqual(code, 0, said)
        self.assertIn("median error 0% of 4 scenarios", said)

    def test_a_machine_that_is_not(self):
        path = self.predicted(2.0)
        code, said = self.call(compare.main, FIDDLER, path)
        self.assertEqual(code, 1, said)
        self.assertIn("median error 50%", said)
        self.assertIn("| -50% |", said)
        self.assertEqual(self.call(compare.main, FIDDLER, path, "--limit", "0.6")[0], 0)

    def test_the_calibrated_hardware_is_what_was_calibrated(self):
        got = limits.hardware_of(sample.trial(), "x")
        for key, value in sample.HARDWARE.items():
            self.assertAlmostEqual(got[key] / value, 1, places=9, msg=key)

    def test_refusals(self):
        dry = self.write(sample.trial() | {"kind": "gpu-trial dry run", "dry_run": True})
        self.assertIn("dry run", self.call(compare.main, FIDDLER, dry)[1])
        code, said = self.call(compare.main, FIDDLER, self.write(sample.trial([])))
        self.assertEqual((code, "no scenario" in said), (1, True))


if __name__ == "__main__":
    FIDDLER = Path(sys.argv.pop(1)).resolve()
    unittest.main()
