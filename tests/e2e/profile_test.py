"""fiddler profile: counts, trace and picture of which experts a text needs."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import time
import xml.etree.ElementTree as xml
from pathlib import Path

import harness
from harness import DEMO, GOLDENS, Golden, TestCase, golden_names

EXACT = ("--arithmetic", "exact")


def read_trace(file: Path) -> tuple[tuple[int, int, int], list[int], list[int]]:
    """(layers, experts, top_k), tokens of each step, expert ids by step, layer, token, rank (sim/routing_trace.h)."""
    content = file.read_bytes()
    assert content[:8] == b"FIDROUTE"
    version, layers, experts, top_k, steps, tokens = struct.unpack_from("<4I2Q", content, 8)
    assert version == 1
    step_tokens = list(struct.unpack_from(f"<{steps}I", content, 40))
    ids = list(struct.unpack_from(f"<{tokens * layers * top_k}H", content, 40 + 4 * steps))
    assert len(content) == 40 + 4 * steps + 2 * len(ids) + 8
    return (layers, experts, top_k), step_tokens, ids


def listing(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes."""
    entries = []
    for entry in os.scandir(folder):
        try:
            entries.append((entry.name, entry.stat().st_size))
        except FileNotFoundError:  # renamed meanwhile
            entries.append((entry.name, -1))
    return sorted(entries)


class Choices(TestCase):
    def test_trace_is_what_the_routers_chose(self) -> None:
        """Against the choices of transformers' routers, every layer and token."""
        for name in golden_names():
            with self.subTest(name):
                golden = Golden(name)
                folder = self.folder()
                (folder / "ids.txt").write_text(" ".join(map(str, golden.ids)))
                result = self.succeed("profile", golden.model, "--ids", folder / "ids.txt", *EXACT, "--json",
                                      "--trace", folder / "trace.bin").json()
                (layers, experts, top_k), step_tokens, ids = read_trace(folder / "trace.bin")
                tokens = len(golden.ids)
                self.assertEqual(step_tokens, [1] * tokens)
                chosen = golden.tensor("router_ids")  # [layers, tokens, top_k]
                self.assertEqual(len(chosen), layers * tokens * top_k)
                counts = [[0] * experts for _ in range(layers)]
                for token in range(tokens):
                    for layer in range(layers):
                        expected = chosen[(layer * tokens + token) * top_k :][:top_k]
                        self.assertEqual(ids[(token * layers + layer) * top_k :][:top_k], expected)
                        for expert in expected:
                            counts[layer][expert] += 1
                self.assertEqual(result["counts"], counts)
                self.assertEqual((result["layers"], result["experts"], result["top_k"]), (layers, experts, top_k))


class DemoModel(TestCase):
    def test_counts_add_up(self) -> None:
        folder = self.folder()
        files = ("--output", folder / "p.json", "--trace", folder / "t.bin", "--svg", folder / "p.svg")
        run = self.succeed("profile", DEMO, "--max-tokens", "1500", *files, "--json")
        result = run.json()
        self.assertIn("first 1500 of", run.err)
        self.assertEqual(result["tokens"], 1500)
        for layer in result["counts"]:
            self.assertEqual(sum(layer), 1500 * 2)
        shares = [entry["share"] for entry in result["top_shares"]]
        self.assertEqual(shares, sorted(shares))
        largest = [max(layer) / sum(layer) for layer in result["counts"]]
        self.assertAlmostEqual(result["most_popular_share"], sum(largest) / len(largest))
        self.assertTrue(0 < result["drift"]["share"] < 1)

        profile = json.loads((folder / "p.json").read_text())
        self.assertEqual(profile["counts"], result["counts"])
        self.assertEqual((profile["family"], profile["text"]), ("mixtral", "heldout.txt"))
        _, step_tokens, ids = read_trace(folder / "t.bin")
        self.assertEqual(sum(step_tokens), 1500)
        picture = xml.fromstring((folder / "p.svg").read_text())
        self.assertEqual(picture.tag, "{http://www.w3.org/2000/svg}svg")
        cells = picture.findall("{http://www.w3.org/2000/svg}rect")
        self.assertGreaterEqual(len(cells), 4 * 8)

    def test_the_profile_that_is_shipped(self) -> None:
        """Whatever the processor: a few choices in a thousand change with the order of sums."""
        shipped = json.loads((DEMO / "popularity.json").read_text())
        result = self.succeed("profile", DEMO, "--max-tokens", "100000", "--json").json()
        self.assertEqual(result["tokens"], shipped["tokens"])
        for layer, expected in zip(result["counts"], shipped["counts"]):
            moved = sum(abs(count - other) for count, other in zip(layer, expected)) / 2
            self.assertLess(moved, 0.005 * sum(expected))

    def test_deterministic_whatever_the_threads(self) -> None:
        folder = self.folder()
        written = []
        for i, threads in enumerate(("1", "2", "3")):
            self.succeed("profile", DEMO, "--max-tokens", "700", "--threads", threads,
                         "--output", folder / f"{i}.json", "--trace", folder / f"{i}.bin")
            written.append(((folder / f"{i}.json").read_bytes(), (folder / f"{i}.bin").read_bytes()))
        self.assertEqual(written[0], written[1])
        self.assertEqual(written[0], written[2])

    def test_windows_are_on_their_own(self) -> None:
        """A window that is cut where the text ends chooses what the same tokens chose before."""
        folder = self.folder()
        for tokens in ("600", "300"):
            self.succeed("profile", DEMO, "--max-tokens", tokens, "--context", "200", "--trace", folder / tokens)
        _, _, long = read_trace(folder / "600")
        _, _, short = read_trace(folder / "300")
        self.assertEqual(long[: len(short)], short)

    def test_bad_requests(self) -> None:
        self.refuse("profile", DEMO, "--text", "/nowhere/text", mentions=("/nowhere/text", "expected"))
        self.refuse("profile", GOLDENS / "mixtral-base/model", mentions=("--text",))
        empty = self.folder() / "empty.txt"
        empty.write_text("")
        self.refuse("profile", GOLDENS / "mixtral-base/model", "--ids", empty, mentions=("empty.txt", "expected"))
        for option in ("--output", "--trace", "--svg"):
            self.refuse("profile", DEMO, "--max-tokens", "10", option, "/nowhere/x", mentions=("/nowhere/x",))
        self.misuse("profile", DEMO, "--max-tokens", "0")

    def test_any_name_of_a_text_makes_a_picture(self) -> None:
        folder = self.folder()
        text = os.path.join(os.fsencode(folder), b"<a>&\"\x01\xff.txt")
        with open(text, "w") as file:
            file.write("Once upon a time.")
        self.succeed("profile", DEMO, "--text", text, "--svg", folder / "p.svg", "--output", folder / "p.json")
        words = "".join(xml.fromstring((folder / "p.svg").read_text("utf-8")).itertext())
        self.assertIn("<a>&\" \ufffd.txt", words)
        self.assertIn("<a>&", json.loads((folder / "p.json").read_text("utf-8"))["text"])


class Killed(TestCase):
    def test_files_are_the_old_or_the_new_ones(self) -> None:
        folder = self.folder()
        files = {option: folder / option.strip("-") for option in ("--output", "--trace", "--svg")}
        arguments = [argument for pair in files.items() for argument in pair]
        command = [harness.FIDDLER, "profile", DEMO, "--max-tokens", "300", *arguments]

        def contents() -> dict[str, bytes]:
            return {option: file.read_bytes() for option, file in files.items()}

        self.succeed(*command[1:])
        new = contents()
        old = {option: b"old" for option in files}
        start = time.monotonic()
        self.succeed(*command[1:])
        duration = time.monotonic() - start
        choose = random.Random(1)
        replaced = 0
        for i in range(60):
            for file in files.values():
                file.write_bytes(b"old")
            before = listing(folder)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                if i % 2 == 0:
                    time.sleep(duration * choose.uniform(0.3, 1.1))
                else:  # while something is being written
                    while process.poll() is None and listing(folder) == before:
                        pass
                    time.sleep(choose.choice((0, 0, 0.001, 0.003)))
                process.send_signal(signal.SIGKILL)
            for option, content in contents().items():
                self.assertIn(content, (old[option], new[option]), option)
                replaced += content == new[option]
        self.assertGreater(replaced, 0)  # else nothing was tried
        self.assertLess(replaced, 3 * 60)


if __name__ == "__main__":
    harness.main()
