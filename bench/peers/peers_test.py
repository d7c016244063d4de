"""The scripts of the race, without the peers: python3 peers_test.py PATH-OF-FIDDLER [unittest arguments].

What needs numpy or gguf is skipped where they are not installed.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from collections import namedtuple
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

import engines
import geometry
import report
from geometry import PeersError

try:
    import numpy
except ImportError:
    numpy = None
try:
    import gguf
except ImportError:
    gguf = None

HERE = Path(__file__).resolve().parent
FIDDLER = ""  # set at the end


def visit(run: int, engine: str, prefill: float, decode: float, **more) -> dict:
    measured = {"threads": 2, "case": [128, 32, 1], "prefill": [prefill], "decode": [decode],
                "limits": {"read_gbps": 40.0, "bf16_gflops": 400.0}} | more  # fmt: skip
    return {"run": "first", "round": run, "engine": engine, "geometry": "g", "format": "bf16", "measured": [measured]}


def sample() -> dict:
    """Two rounds: 2.0 and 1.5 times the peer in decode, 0.5 times in prefill."""
    about = {"flops_per_prompt_token": 2e9, "bytes_per_step": 2e9}
    return {
        "kind": "peers",
        "machine": {"cpu": "Some CPU", "cores": 2},
        "runs": {"first": {"engines": {"fiddler": {"version": "1"}, "peer": {"package": "p", "version": "2"}}}},
        "models": {
            "g": {"num_experts": 8, "experts_per_token": 2,
                  "formats": {"bf16": {"dense_bytes": 1_000_000_000, "expert_bytes": 4_000_000_000}}}  # fmt: skip
        },
        "visits": [
            visit(1, "fiddler", 50, 10, **about),
            visit(1, "peer", 100, 5),
            visit(2, "fiddler", 60, 12, **about),
            visit(2, "peer", 120, 8),
            {**visit(3, "fiddler", 1, 1), "measured": [], "error": "it fell over"},
        ],
    }


class Report(unittest.TestCase):
    def entry(self, phase: str) -> dict:
        (entry,) = [entry for entry in report.summarize(sample()) if entry["phase"] == phase]
        return entry["engines"]

    def test_medians_and_shares_of_the_limit(self):
        decode = self.entry("decode")
        self.assertEqual(decode["fiddler"]["tokens_per_s"]["median"], 11)
        self.assertAlmostEqual(decode["fiddler"]["gbps"], 22)
        self.assertAlmostEqual(decode["fiddler"]["percent_of_limit"], 100 * (20 + 24) / 2 / 40)
        self.assertAlmostEqual(decode["peer"]["gbps"], 6.5 * 2)  # 1 GB and a quarter of 4 GB a token
        prefill = self.entry("prefill")
        self.assertAlmostEqual(prefill["peer"]["gflops"], 220)
        self.assertAlmostEqual(prefill["peer"]["percent_of_limit"], 100 * 220 / 400)

    def test_every_version_that_raced_is_named(self):
        content = sample()
        content["runs"]["second"] = {"engines": {"fiddler": {"version": "1", "commit": "abcdef0123456"}}}
        content["runs"]["third"] = content["runs"]["first"]
        self.assertIn("fiddler: 1, 1 abcdef012; peer: p 2.", report.table(content))

    def test_ratios_are_of_the_same_round(self):
        ratio = self.entry("decode")["peer"]["fiddler_is_times"]
        self.assertEqual((ratio["median"], ratio["samples"]), (1.75, 2))
        self.assertEqual(self.entry("prefill")["peer"]["fiddler_is_times"]["median"], 0.5)
        self.assertNotIn("fiddler_is_times", self.entry("decode")["fiddler"])

    def test_more_sequences_read_more_experts(self):
        model = sample()["models"]["g"]
        self.assertEqual(report.bytes_per_step(model, "bf16", 1), 2e9)
        self.assertEqual(report.bytes_per_step(model, "bf16", 2), 1e9 + 4e9 * (1 - 0.75**2))
        self.assertIsNone(report.bytes_per_step(model, "q8_0", 1))

    def test_table(self):
        text = report.table(sample())
        cells = "| 11.0 (22.0 GB/s, 55%) | 6.5 (13.0 GB/s, 32%) **1.75x** [1.62-1.88] |"
        self.assertIn(f"| g | bf16 | 2 | decode at 128 {cells}", text)
        self.assertIn("Some CPU, 2 cores", text)
        with self.assertRaises(PeersError):
            report.table(sample() | {"visits": []})

    def test_placed_between_the_marks(self):
        document = "before\n<!-- peers -->\nold\n<!-- /peers -->\nafter\n"
        placed = report.insert(document, "new\n", "d.md")
        self.assertEqual(placed, "before\n<!-- peers -->\n\nnew\n\n<!-- /peers -->\nafter\n")
        self.assertEqual(report.insert(placed, "new\n", "d.md"), placed)
        with self.assertRaisesRegex(PeersError, "d.md: expected the lines"):
            report.insert("nothing\n", "new\n", "d.md")


class Geometry(unittest.TestCase):
    def test_is_what_fiddler_inspects(self):
        for name in ("mixtral-4l", "qwen3-12l"):
            ours = geometry.load(name)
            theirs = engines.run_json([FIDDLER, "inspect", name, "--json"], "fiddler")
            tensors = ours.tensors()
            self.assertEqual(sum(tensor.count for tensor in tensors), theirs["parameters"])
            experts = sum(tensor.count for tensor in tensors if ".experts." in tensor.name)
            self.assertEqual(experts, theirs["expert_parameters"])
            self.assertEqual(
                [ours.num_hidden_layers, ours.num_moe_experts, ours.num_experts_per_tok, ours.head_size],
                [theirs["layers"], theirs["experts"], theirs["experts_per_token"], theirs["head_dim"]],
            )
            self.assertEqual([ours.vocab_size, ours.num_heads, ours.num_kv_heads],
                             [theirs["vocab_size"], theirs["heads"], theirs["kv_heads"]])  # fmt: skip

    def test_unknown(self):
        with self.assertRaisesRegex(PeersError, "'nope': expected one of .*mixtral-4l"):
            geometry.load("nope")


def safetensors(folder: Path) -> dict[str, tuple[list[int], bytes]]:
    tensors = {}
    for file in folder.glob("*.safetensors"):
        content = file.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        for name, entry in json.loads(content[8 : 8 + size]).items():
            begin, end = entry["data_offsets"]
            tensors[name] = (entry["shape"], content[8 + size + begin : 8 + size + end])
    return tensors


@unittest.skipUnless(numpy and gguf, "numpy and gguf are not installed")
class Export(unittest.TestCase):
    def setUp(self):
        import export

        self.export = export
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = Path(folder.name) / "model"

    def test_both_files_hold_the_same_numbers(self):
        for name in geometry.TINY:
            shape = geometry.load(name)
            out = self.out / name
            with mock.patch.object(self.export, "SHARD_BYTES", 4 << 20):
                self.export.Exporter(shape, 1, out, 1).export(["hf", "bf16"])
            self.assertGreater(len(list((out / "hf").glob("*.safetensors"))), 1)
            published = safetensors(out / "hf")
            self.assertEqual(set(published), {tensor.name for tensor in shape.tensors()})
            stored = {tensor.name: tensor for tensor in gguf.GGUFReader(out / "bf16.gguf").tensors}
            self.assertEqual(list(stored), [tensor.name for tensor in shape.gguf_tensors()])
            for tensor in shape.gguf_tensors():
                data = stored[tensor.name].data
                values = data.view(numpy.uint16) if not tensor.float32 else (data.view(numpy.uint32) >> 16)
                values = values.astype(numpy.uint16).reshape(len(tensor.parts), -1)
                for e, part in enumerate(tensor.parts):
                    bits = numpy.frombuffer(published[part.name][1], numpy.uint16)
                    if heads := tensor.rotated_heads:
                        rows, columns = part.shape
                        bits = bits.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).ravel()
                    self.assertTrue((values[e] == bits).all(), tensor.name)

    def test_weights_look_like_weights(self):
        matrix = geometry.Tensor("some.weight", (512, 1024))
        values = self.export.bf16_to_float32(self.export.weights(matrix, seed=1))
        self.assertAlmostEqual(float(values.std()) * 32, 1, delta=0.01)
        self.assertAlmostEqual(float(values.mean()) * 32, 0, delta=0.01)
        again = self.export.bf16_to_float32(self.export.weights(matrix, seed=2))
        self.assertLess(abs(numpy.corrcoef(values.ravel(), again.ravel())[0, 1]), 0.01)

    def test_keeps_what_is_there_but_not_of_another_seed(self):
        shape = geometry.load("tiny-qwen3")
        self.export.Exporter(shape, 1, self.out, 1).export(["hf"])
        config = self.out / "hf/config.json"
        before = config.stat().st_mtime_ns
        self.export.Exporter(shape, 1, self.out, 1).export(["hf"])
        self.assertEqual(config.stat().st_mtime_ns, before)
        with self.assertRaisesRegex(PeersError, "seed is another one"):
            self.export.Exporter(shape, 2, self.out, 1)

    def test_a_full_disk_is_noticed_before_writing(self):
        usage = namedtuple("usage", "free")(10 << 20)
        with mock.patch.object(self.export.shutil, "disk_usage", return_value=usage):
            with self.assertRaisesRegex(PeersError, r"hf, bf16 need 0\.0 GB, 0\.0 GB are free"):
                self.export.Exporter(geometry.load("tiny-mixtral"), 1, self.out, 1).export(["hf", "bf16"])
        self.assertEqual(list(self.out.iterdir()), [])


class Race(unittest.TestCase):
    def run_race(self, *arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, "-B", HERE / "race.py", *arguments, "--fiddler", FIDDLER]
        return subprocess.run(command, capture_output=True, text=True, timeout=250)

    @unittest.skipUnless(numpy, "numpy is not installed")
    def test_quick(self):
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "results.json"
            run = self.run_race("--quick", "--engines", "fiddler", "--results", results)
            self.assertEqual(run.returncode, 0, run.stderr)
            content = json.loads(results.read_text())
            self.assertEqual(len(content["visits"]), 2)
            self.assertEqual([len(visit["measured"]) for visit in content["visits"]], [2, 2])
            self.assertIn("tiny-mixtral", report.table(content))

    def test_nothing_exported(self):
        with tempfile.TemporaryDirectory() as folder:
            run = self.run_race(folder, "--results", Path(folder) / "results.json")
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertEqual(run.stderr, f"race.py: {folder}: no export.json: run export.py first\n")

    def test_a_missing_package_is_one_line(self):
        with mock.patch.object(engines.metadata, "version", side_effect=engines.metadata.PackageNotFoundError):
            with self.assertRaisesRegex(PeersError, "llama.cpp-best: the package llama-cpp-python is not installed"):
                engines.PackagePeer("llama.cpp", True).about()

    def test_a_program_in_place_of_a_package(self):
        with tempfile.TemporaryDirectory() as folder:
            program, model = Path(folder) / "llama-bench", Path(folder) / "bf16.gguf"
            model.touch()
            program.write_text('#!/bin/sh\necho "$*" >>"$0.log"\necho \'[{"samples_ts": [1.5, 2.5]}]\'\n')
            program.chmod(0o755)
            for library, decode in (("llama.cpp", "-p 0 -n 8 -d 128"), ("ik_llama.cpp", "-p 0 -n 0 -gp 128,8")):
                peer = engines.ProgramPeer(library, True, program)
                with peer.open(Path(folder), "bf16", engines.Machine()) as session:
                    measured = session.measure(engines.Case(128, 8, 1), 2, 2)
                self.assertEqual(measured, {"prefill": [1.5, 2.5], "decode": [1.5, 2.5]})
                calls = Path(f"{program}.log").read_text().splitlines()[-2:]
                self.assertTrue(calls[0].endswith("-p 128 -n 0") and calls[1].endswith(decode), calls)
            missing = engines.ProgramPeer("llama.cpp", True, Path(folder) / "nope")
            with missing.open(Path(folder), "bf16", engines.Machine()) as session:
                with self.assertRaisesRegex(PeersError, "cannot run .*nope: No such file"):
                    session.measure(engines.Case(128, 8, 1), 2, 2)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} PATH-OF-FIDDLER [unittest arguments]")
    FIDDLER = os.path.abspath(sys.argv.pop(1))
    unittest.main()
