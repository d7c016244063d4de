"""`--ram`: experts on disk. The same tokens as in memory, never more memory than allowed, and a packed file that is
whole or not there, whatever happens while it is written."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
from pathlib import Path

import harness
from harness import DEMO, GOLDENS, TestCase

PROMPT = ("-p", "Once upon a time", "-n", "24", "--json")


def smallest_ram(error: str) -> str:
    """What the error for too small a --ram says would do."""
    return re.search(r"at least (\d+MiB)", error)[1]


@functools.cache
def in_memory() -> tuple[list[int], str]:
    """The tokens to expect, and the smallest --ram."""
    test = TestCase()
    tokens = test.succeed("run", DEMO, *PROMPT).json()["token_ids"]
    error = test.refuse("run", DEMO, *PROMPT, "--ram", "1MiB", mentions=("--ram: expected at least", "got 1.0 MiB"))
    return tokens, smallest_ram(error)


def negate_experts(file: Path, suffix: str) -> None:
    """Flips the sign of every element of the BF16 tensors whose names end so."""
    content = bytearray(file.read_bytes())
    (header_bytes,) = struct.unpack_from("<Q", content)
    for name, tensor in json.loads(content[8 : 8 + header_bytes]).items():
        if not name.endswith(suffix):
            continue
        assert tensor["dtype"] == "BF16"
        begin, end = (8 + header_bytes + offset for offset in tensor["data_offsets"])
        content[begin + 1 : end : 2] = bytes(byte ^ 0x80 for byte in content[begin + 1 : end : 2])
    file.write_bytes(content)


class Disk(TestCase):
    def setUp(self) -> None:
        self.file = self.folder() / "demo.packed"
        self.expected, self.ram = in_memory()
        self.tier = ("--ram", self.ram, "--packed-file", self.file)

    def run_from_disk(self, *more: str) -> harness.Finished:
        run = self.succeed("run", DEMO, *PROMPT, *self.tier, *more)
        self.assertEqual(run.json()["token_ids"], self.expected)
        return run

    def test_the_same_tokens_and_the_file_is_kept(self) -> None:
        run = self.run_from_disk()
        self.assertIn("of 32 experts", run.err)
        self.assertIn(str(self.file), run.err)
        written = self.file.stat()
        self.run_from_disk()
        self.assertEqual(self.file.stat().st_mtime_ns, written.st_mtime_ns)
        self.assertEqual([path.name for path in self.file.parent.iterdir()], [self.file.name])
        # Rounded weights are others.
        quantized = self.succeed("run", DEMO, *PROMPT, "--quant", "int8").json()["token_ids"]
        from_disk = self.succeed("run", DEMO, *PROMPT, "--quant", "int8", *self.tier).json()["token_ids"]
        self.assertEqual(from_disk, quantized)
        self.run_from_disk()

    def test_other_weights_of_the_same_names_sizes_and_times(self) -> None:
        """In the default place: one file, however often the model is touched or changed."""
        model = self.copy_of(DEMO)
        weights = model / "model.safetensors"
        environment = {"XDG_CACHE_HOME": str(self.folder())}
        files = Path(environment["XDG_CACHE_HOME"]) / "fiddler"

        def tokens(*tier: str) -> list[int]:
            run = harness.fiddler("run", model, *PROMPT, *tier, env=environment)
            self.assertEqual(run.code, 0, run.err)
            return run.json()["token_ids"]

        self.assertEqual(tokens("--ram", self.ram), self.expected)
        os.utime(weights, ns=(0, 10**18))
        self.assertEqual(tokens("--ram", self.ram), self.expected)
        self.assertEqual(len(list(files.iterdir())), 1)
        negate_experts(weights, ".0.w2.weight")  # one expert of each layer
        os.utime(weights, ns=(0, 10**18))
        changed = tokens()
        self.assertNotEqual(changed, self.expected)
        self.assertEqual(tokens("--ram", self.ram), changed)
        self.assertEqual(len(list(files.iterdir())), 1)

    def test_what_the_error_says_would_do_does(self) -> None:
        """Also after the checkpoint was written again: its pages in the page cache are nobody's memory."""
        model = self.copy_of(DEMO)
        weights = model / "model.safetensors"
        content = weights.read_bytes()
        for _ in range(5):
            error = self.refuse("run", model, *PROMPT, "--ram", "1MiB")
            weights.write_bytes(content)
            tier = ("--ram", smallest_ram(error), "--packed-file", self.file)
            self.assertEqual(self.succeed("run", model, *PROMPT, *tier).json()["token_ids"], self.expected)

    def test_eval_and_bench(self) -> None:
        text = self.folder() / "text.txt"
        text.write_text((DEMO / "heldout.txt").read_text()[:3000])
        arguments = ("eval", DEMO, "--text", text, "--json")
        ram = smallest_ram(self.refuse(*arguments, "--ram", "1MiB"))
        in_memory = self.succeed(*arguments).json()
        on_disk = self.succeed(*arguments, "--ram", ram, "--packed-file", self.file).json()
        self.assertEqual(on_disk["perplexity"], in_memory["perplexity"])
        arguments = ("bench", DEMO, "--prompt", "8", "--gen", "8", "--repeat", "1", "--json")
        ram = smallest_ram(self.refuse(*arguments, "--ram", "1MiB"))
        result = self.succeed(*arguments, "--ram", ram, "--packed-file", self.file).json()
        self.assertGreater(result["disk"]["limit_gbps"], 0)
        self.assertGreater(result["disk"]["decode"]["gbps"], 0)
        self.assertLess(result["disk"]["decode"]["hit_rate"], 1)
        self.assertGreater(result["disk"]["decode"]["percent_waited"], 0)
        self.assertLess(result["disk"]["decode"]["percent_waited"], 100)

    def test_the_default_place_is_the_users_cache(self) -> None:
        cache = self.folder()
        command = [harness.FIDDLER, "run", DEMO, *PROMPT, "--ram", self.ram]
        for environment in ({"XDG_CACHE_HOME": str(cache)}, {"XDG_CACHE_HOME": str(cache)}):
            run = subprocess.run(command, capture_output=True, env=environment, timeout=harness.TIMEOUT_S)
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertEqual(json.loads(run.stdout)["token_ids"], self.expected)
            self.assertEqual(len(list((cache / "fiddler").glob("demo-*.packed"))), 1)
        run = subprocess.run(command, capture_output=True, env={}, timeout=harness.TIMEOUT_S)
        self.the_error(harness.Finished(run), mentions=("XDG_CACHE_HOME", "--packed-file"))

    def test_never_more_memory_than_allowed(self) -> None:
        if Path(harness.FIDDLER).parent.name in ("asan", "tsan"):
            self.skipTest("sanitizers have memory of their own")
        prompt = self.folder() / "prompt.txt"
        prompt.write_text((DEMO / "heldout.txt").read_text()[:4000])  # prompts in whole batches
        arguments = ("run", DEMO, "-f", prompt, "-n", "100", "--ignore-eos", "--json")
        ram = smallest_ram(self.refuse(*arguments, "--ram", "1MiB"))
        command = [harness.FIDDLER, *arguments, "--ram", ram, "--packed-file", self.file]
        # By a process of its own: what a child is said to have had at most begins with what its parent has.
        measure = ("import os, sys; null = [(os.POSIX_SPAWN_OPEN, 1, '/dev/null', os.O_WRONLY, 0)];"
                   "child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=null);"
                   "_, status, usage = os.wait4(child, 0); print(usage.ru_maxrss); sys.exit(status != 0)")
        for _ in range(2):  # the file is written, then read
            run = subprocess.run([sys.executable, "-S", "-c", measure, *command], capture_output=True,
                                 timeout=harness.TIMEOUT_S)
            self.assertEqual(run.returncode, 0, run.stderr)
            peak = int(run.stdout)  # KiB
            allowed = int(ram.removesuffix("MiB")) * 1024
            self.assertLess(peak, allowed)
            self.assertGreater(peak, allowed // 2)  # and it was measured

    def test_whoever_kills_the_writer_leaves_no_half_file(self) -> None:
        moments = random.Random(1)
        folder = self.file.parent
        command = ("run", DEMO, *PROMPT, *self.tier)
        killed = 0
        for _ in range(8):
            self.file.unlink(missing_ok=True)
            delay = moments.choice((0, 0.001, 0.003, 0.01))  # of what takes some 20 ms
            killed += self.kill_while_writing(folder, *command, delay_s=delay)
            left = [path.name for path in folder.iterdir()]
            self.assertIn(left, ([], [self.file.name], [f".{self.file.name}.fiddler-partial"]))
            self.run_from_disk()
            self.assertEqual([path.name for path in folder.iterdir()], [self.file.name])
        self.assertGreater(killed, 3)

    def test_every_half_file_is_written_again(self) -> None:
        self.run_from_disk()
        whole = self.file.read_bytes()
        for size in (80, 4096, len(whole) - 1):
            self.file.write_bytes(whole[:size])
            self.run_from_disk()
            self.assertEqual(self.file.read_bytes(), whole)
        self.file.write_bytes(whole[:100] + b"\xff" + whole[101:])  # in the header
        self.run_from_disk()
        self.assertEqual(self.file.read_bytes(), whole)

    def test_a_damaged_expert_is_one_error(self) -> None:
        self.run_from_disk()
        content = bytearray(self.file.read_bytes())
        for offset in range(len(content) // 32 // 2, len(content), len(content) // 32):  # every expert
            content[offset] ^= 1
        self.file.write_bytes(content)
        self.refuse("run", DEMO, *PROMPT, *self.tier, mentions=(str(self.file), "expert", "checksum: expected", "got"))

    def test_a_full_disk_is_one_error_and_nothing_is_left(self) -> None:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        run = harness.fiddler("run", DEMO, *PROMPT, *self.tier, preexec_fn=limit)
        self.assertEqual(run.code, 1)
        self.the_error(run, mentions=(str(self.file), "File too large"))
        self.assertEqual(list(self.file.parent.iterdir()), [])

    def test_files_that_are_something_else(self) -> None:
        self.file.write_text("my thesis")
        self.refuse("run", DEMO, *PROMPT, *self.tier, mentions=(str(self.file), "expected a packed expert file or none"))
        self.assertEqual(self.file.read_text(), "my thesis")
        for place in ("/nowhere/x", self.file.parent, "/dev/null"):
            self.refuse("run", DEMO, *PROMPT, "--ram", self.ram, "--packed-file", place, mentions=(str(place),))

    def test_another_model_is_another_file(self) -> None:
        names = ("mixtral-base", "qwen2-base")
        for name in names * 2:  # by turns in one file
            model = GOLDENS / name / "model"
            arguments = ("run", model, "--prompt-ids", "1,2,3", "-n", "12", "--json")
            expected = self.succeed(*arguments).json()["token_ids"]
            ram = smallest_ram(self.refuse(*arguments, "--ram", "1MiB"))
            run = self.succeed(*arguments, "--ram", ram, "--packed-file", self.file)
            self.assertEqual(run.json()["token_ids"], expected)

    def test_enough_is_enough(self) -> None:
        run = self.succeed("run", DEMO, *PROMPT, "--ram", "4GiB", "--packed-file", self.file)
        self.assertEqual(run.json()["token_ids"], self.expected)
        self.assertFalse(self.file.exists())
        self.refuse("run", DEMO, *PROMPT, "--ram", "much", mentions=("--ram", "much"))


if __name__ == "__main__":
    harness.main()
