"""fiddler profile: counts, trace and picture of which experts a text needs."""

from __future__ import annotations

import json
import os
import struct
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
        if harness.is_thread_sanitized():
            self.skipTest("seconds of arithmetic, minutes under this sanitizer")
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


class Cut(TestCase):
    """Writing that ends half-way leaves the old files or the new ones, whole."""

    def setUp(self) -> None:
        self.place = self.folder()
        self.files = {option: self.place / option.strip("-") for option in ("--output", "--trace", "--svg")}
        self.command = ("profile", DEMO, "--max-tokens", "50", "--threads", "1")
        self.arguments = [argument for pair in self.files.items() for argument in pair]
        self.succeed(*self.command, *self.arguments)
        self.new = {option: file.read_bytes() for option, file in self.files.items()}
        for file in self.files.values():
            file.write_bytes(b"old")

    def test_by_a_full_disk(self) -> None:
        for option, file in self.files.items():
            for size in (1, len(self.new[option]) - 1):
                self.fail_to_write(size, *self.command, option, file)
                self.assertEqual(file.read_bytes(), b"old")
        self.assertEqual(len(list(self.place.iterdir())), len(self.files))

    def test_by_a_kill(self) -> None:
        replaced = 0
        for _ in range(8):
            for file in self.files.values():
                file.write_bytes(b"old")
            self.kill_while_writing(self.place, *self.command, *self.arguments)
            for option, file in self.files.items():
                content = file.read_bytes()
                self.assertIn(content, (b"old", self.new[option]), option)
                replaced += content != b"old"
        self.assertLess(replaced, 2 * 8)  # most were killed in time


if __name__ == "__main__":
    harness.main()
