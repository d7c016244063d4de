"""`fiddler run`: text and JSON, streaming, interruption, pipes and full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import harness
from harness import DEMO, GOLDENS, TestCase, fiddler

PROMPT = "Once upon a time"
LONG = ("-n", "1900", "--ignore-eos")  # seconds of work, within the demo model's 2048 positions


class Output(TestCase):
    def test_twice_the_same(self) -> None:
        for sampling in ((), ("--temp", "1", "--seed", "5", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01")):
            first, second = (self.succeed("run", DEMO, "-p", PROMPT, "-n", "24", *sampling) for _ in range(2))
            self.assertEqual(first.out, second.out)
        other_seed = self.succeed("run", DEMO, "-p", PROMPT, "-n", "24", "--temp", "1", "--seed", "6")
        self.assertNotEqual(other_seed.out, first.out)

    def test_json_and_text_say_the_same(self) -> None:
        result = self.succeed("run", DEMO, "-p", PROMPT, "-n", "24", "--json").json()
        keys = {"text", "token_ids", "tokens", "prompt_tokens", "ttft_s", "tokens_per_s"}
        self.assertLessEqual(keys, set(result))
        self.assertEqual(result["tokens"], len(result["token_ids"]))
        self.assertGreater(result["ttft_s"], 0)
        self.assertGreater(result["tokens_per_s"], 0)
        streamed = self.succeed("run", DEMO, "-p", PROMPT, "-n", "24")
        self.assertEqual(streamed.out.decode(), result["text"] + "\n")  # and nothing else

    def test_prompt_from_text_file_or_ids(self) -> None:
        file = self.folder() / "prompt.txt"
        file.write_text(PROMPT)
        result = self.succeed("run", DEMO, "-p", PROMPT, "-n", "8", "--json").json()
        from_file = self.succeed("run", DEMO, "-f", file, "-n", "8", "--json").json()
        self.assertEqual(from_file["token_ids"], result["token_ids"])

        golden = json.loads((DEMO / "golden.json").read_text())["greedy"][0]
        self.assertEqual(golden["prompt"], PROMPT)
        ids = ",".join(map(str, golden["prompt_ids"]))
        from_ids = self.succeed("run", DEMO, "--prompt-ids", ids, "-n", "8", "--json").json()
        self.assertEqual(from_ids["token_ids"], result["token_ids"])
        plain = self.succeed("run", DEMO, "--prompt-ids", ids, "-n", "8")
        self.assertEqual(plain.out.decode(), result["text"] + "\n")
        # Without a tokenizer beside the weights it is ids in, ids out.
        model = self.copy_of(DEMO)
        (model / "tokenizer.json").unlink()
        plain = self.succeed("run", model, "--prompt-ids", ids, "-n", "8")
        self.assertEqual(plain.out.decode(), ",".join(map(str, result["token_ids"])) + "\n")
        self.refuse("run", model, "--prompt-ids", ids, "--stop", "x", mentions=("--stop", "tokenizer.json"))

    def test_the_end_of_the_prompt_is_not_generated_text(self) -> None:
        result = self.succeed("run", DEMO, "-p", "I like this \U0001f642", "-n", "5", "--stop", "\U0001f642", "--json").json()
        self.assertEqual(result["tokens"], 5)
        self.assertNotIn("\U0001f642", result["text"])

    def test_stop_strings(self) -> None:
        whole = self.succeed("run", DEMO, "-p", PROMPT, "-n", "40", "--json").json()["text"]
        stop = whole[20:26]
        result = self.succeed("run", DEMO, "-p", PROMPT, "-n", "40", "--stop", "@@", "--stop", stop, "--json").json()
        self.assertEqual(result["text"], whole[: whole.index(stop)])
        self.assertEqual(result["finish_reason"], "stop")
        self.refuse("run", DEMO, "-p", PROMPT, "--stop", "", mentions=("stop: expected",))
        self.refuse("run", DEMO, "-p", PROMPT, "--stop", b"\xa9", mentions=("stop: expected UTF-8",))

    def test_repeat_penalty_threads_and_context(self) -> None:
        plain = self.succeed("run", DEMO, "-p", PROMPT, "-n", "40", "--json").json()["token_ids"]
        penalized = self.succeed("run", DEMO, "-p", PROMPT, "-n", "40", "--repeat-penalty", "5", "--json").json()
        self.assertNotEqual(penalized["token_ids"], plain)
        self.assertEqual(len(set(penalized["token_ids"])), len(penalized["token_ids"]))
        for threads in ("1", "3"):
            result = self.succeed("run", DEMO, "-p", PROMPT, "-n", "40", "--threads", threads, "--json").json()
            self.assertEqual(result["token_ids"], plain)
        enough = self.succeed("run", DEMO, "-p", PROMPT, "-n", "40", "--context", "64", "--json").json()
        self.assertEqual(enough["token_ids"], plain)
        self.refuse("run", DEMO, "-p", PROMPT, "-n", "40", "--context", "20", mentions=("20",))

    def test_any_bytes_are_a_prompt(self) -> None:
        for prompt in (b"\xff\xfe broken \xc3", "日本語 🙂".encode(), b"\x01\x02", b" ", b"\n\n"):
            result = self.succeed("run", DEMO, "-p", prompt, "-n", "4", "--json").json()
            self.assertEqual(result["tokens"], 4)
            self.succeed("run", DEMO, "-p", prompt, "-n", "4").out.decode("utf-8")

    def test_starts_fast(self) -> None:
        start = time.monotonic()
        self.succeed("run", DEMO, "-p", PROMPT, "-n", "1")
        self.assertLess(time.monotonic() - start, 5)  # a tenth of a second on an idle machine


class TheNameDemo(TestCase):
    def test_found_beside_an_installed_program(self) -> None:
        place = self.folder()
        (place / "bin").mkdir()
        (place / "share/fiddler/models").mkdir(parents=True)
        program = shutil.copy(harness.FIDDLER, place / "bin/fiddler")
        command = [program, "inspect", "demo", "--json"]
        nowhere = harness.Finished(subprocess.run(command, capture_output=True, timeout=harness.TIMEOUT_S))
        self.assertEqual(nowhere.code, 1)
        self.the_error(nowhere, mentions=("demo: expected the demo model in", str(place / "bin")))
        (place / "share/fiddler/models/demo").symlink_to(DEMO)
        found = harness.Finished(subprocess.run(command, capture_output=True, timeout=harness.TIMEOUT_S))
        self.assertEqual(found.code, 0, found.err)


class Streaming(TestCase):
    def test_text_arrives_in_pieces_of_whole_characters(self) -> None:
        sampling = ("--temp", "2", "--seed", "3")  # wild enough for characters in pieces
        command = [harness.FIDDLER, "run", DEMO, "-p", PROMPT, "-n", "300", "--ignore-eos", *sampling]
        pieces, times = [], []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
            while piece := os.read(process.stdout.fileno(), 1 << 16):
                pieces.append(piece)
                times.append(time.monotonic())
        self.assertEqual(process.returncode, 0)
        self.assertGreater(len(pieces), 30)
        self.assertGreater(times[-1] - times[0], 0.01)
        for piece in pieces:
            piece.decode("utf-8")  # raises where a character is cut

    def test_a_reader_that_leaves_ends_it_quietly(self) -> None:
        command = [harness.FIDDLER, "run", DEMO, "-p", PROMPT, *LONG]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
            self.assertTrue(os.read(process.stdout.fileno(), 10))
            process.stdout.close()
            _, errors = process.communicate(timeout=harness.TIMEOUT_S)
        self.assertEqual(process.returncode, 0)
        self.assertNotIn(b"fiddler: ", errors)

    def test_a_full_disk_is_one_error(self) -> None:
        for verb in (("run", DEMO, "-p", PROMPT, "-n", "4"), ("run", DEMO, "-p", PROMPT, "-n", "4", "--json"),
                     ("inspect", DEMO), ("inspect", DEMO, "--json")):
            with open("/dev/full", "wb") as full:
                process = subprocess.run([harness.FIDDLER, *verb], stdout=full, stderr=subprocess.PIPE, timeout=60)
            self.assertEqual(process.returncode, 1, verb)
            errors = [line for line in process.stderr.splitlines() if line.startswith(b"fiddler: ")]
            self.assertEqual(errors, [b"fiddler: stdout: cannot write: No space left on device"], verb)


class Interruption(TestCase):
    def interrupt(self, *arguments: str) -> tuple[bytes, bytes]:
        """Ctrl-C in the middle of a generation: stdout and stderr of a run that ended well, but early.

        With --json nothing shows when it begins; too early kills the program and on a fast machine it may be done
        already, so other moments are tried.
        """
        for delay in (0.3, 0.1, 0.05, 0.15, 0.2, 0.6, 1.2, 2.4):
            command = [harness.FIDDLER, "run", DEMO, "-p", PROMPT, *LONG, *arguments]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                time.sleep(delay)
                process.send_signal(signal.SIGINT)
                out, errors = process.communicate(timeout=harness.TIMEOUT_S)
            if process.returncode == -signal.SIGINT:
                continue
            self.assertEqual(process.returncode, 0, errors)
            if b"interrupted" in out + errors:
                return out, errors
        self.fail("interrupted before the first token or after the last one, whenever it was")

    def test_json(self) -> None:
        out, _ = self.interrupt("--json")
        result = json.loads(out)
        self.assertEqual(result["finish_reason"], "interrupted")
        self.assertLess(result["tokens"], 1900)
        self.assertEqual(len(result["token_ids"]), result["tokens"])

    def test_text(self) -> None:
        out, errors = self.interrupt()
        self.assertTrue(out.decode("utf-8").endswith("\n"))
        self.assertIn(b"interrupted", errors)
        whole = fiddler("run", DEMO, "-p", PROMPT, "-n", "1000", "--ignore-eos").out.rstrip(b"\n")
        written = out.rstrip(b"\n")
        self.assertEqual(written[: len(whole)], whole[: len(written)])  # what it would have written anyway


class MadeUpWeights(TestCase):
    CONFIG = GOLDENS / "qwen2-base/model/config.json"

    def run_seed(self, seed: str, *arguments: str) -> list[int]:
        arguments = ("--dummy-weights", seed, "--prompt-ids", "1,2,3", "-n", "12", "--json", *arguments)
        return self.succeed("run", self.CONFIG, *arguments).json()["token_ids"]

    def test_the_seed_makes_the_model(self) -> None:
        self.assertEqual(self.run_seed("1"), self.run_seed("1"))
        self.assertNotEqual(self.run_seed("1"), self.run_seed("2"))
        for dtype in ("f32", "f16", "bf16"):
            self.assertEqual(len(self.run_seed("1", "--dummy-dtype", dtype)), 12)

    def test_without_weights_or_tokenizer(self) -> None:
        self.refuse("run", self.CONFIG, "--prompt-ids", "1", mentions=("--dummy-weights",))
        self.refuse("run", self.CONFIG, "--dummy-weights", "1", "-p", "x", mentions=("tokenizer.json", "--prompt-ids"))

    def test_bench(self) -> None:
        arguments = ("--dummy-weights", "1", "--prompt", "8", "--gen", "4", "--repeat", "1", "--json")
        result = self.succeed("bench", self.CONFIG, *arguments).json()
        self.assertNotIn("disk", result)
        self.assertLessEqual({"model", "isa", "threads", "limits", "prefill", "decode"}, set(result))
        self.assertEqual({"read_gbps", "f32_gflops", "bf16_gflops", "int8_gops"}, set(result["limits"]))
        for limit in result["limits"].values():
            self.assertGreater(limit, 0)
        self.assertLessEqual({"tokens", "tokens_per_s", "gflops", "percent_of_limit"}, set(result["prefill"]))
        self.assertLessEqual({"tokens", "tokens_per_s", "gbps", "percent_of_limit"}, set(result["decode"]))

    def test_bench_experts(self) -> None:
        if Path(harness.FIDDLER).parent.name in ("asan", "tsan"):
            self.skipTest("a second of arithmetic, minutes under a sanitizer")
        result = self.succeed("bench", self.CONFIG, "--dummy-weights", "1", "--experts", "--repeat", "1", "--json").json()
        self.assertEqual([row["tokens"] for row in result["experts"]][:3], [1, 2, 3])
        for row in result["experts"]:
            self.assertGreater(row["gbps"], 0)
            self.assertGreater(row["percent_of_peak"], 0)
        self.assertGreater(result["cached_layer_us"], 0)

    def test_bench_limits_without_a_model(self) -> None:
        result = self.succeed("bench", "--limits", "--json").json()
        self.assertEqual({"isa", "threads", "limits"}, set(result))
        self.assertGreater(result["limits"]["int8_gops"], 0)
        self.assertIn(b"GB/s", self.succeed("bench", "--limits").out)


if __name__ == "__main__":
    harness.main()
