"""The demo model's data: books to tales, the held-out passages, the tokenizer, the training windows.

A book is a text file with one paragraph a line and a blank line between paragraphs. It is cut into documents (a
tale, a fable or a chapter) at its headings. From every book one contiguous passage is held out; it goes to
`heldout.txt` and no sentence of it stays in the training text.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCAB_SIZE = 4096
UNK, BOS, EOS = "<unk>", "<s>", "</s>"
BOS_ID, EOS_ID = 1, 2
SPACE = "\u2581"  # the visible stand-in for a space in Llama's and Mixtral's vocabularies

# A piece never crosses one of these: a word (with its contraction), a number, a run of punctuation, line breaks.
WORDS = rf"{SPACE}?\p{{L}}+(?:'\p{{L}}+)?|{SPACE}?\p{{N}}+|{SPACE}?[^\p{{L}}\p{{N}}{SPACE}\n]+|\n+|{SPACE}"

HELD_OUT_SEED = 20
MIN_SHARED_SENTENCE = 30  # characters; shorter sentences ("Yes," said he.) are common property


@dataclass
class Document:
    """A run of paragraphs of one book; `opening` says that the tale or chapter starts here."""

    heading: list[str]
    body: list[str]
    opening: bool = True


@dataclass
class Corpus:
    documents: list[Document]
    held_out: str


def is_heading(paragraph: str) -> bool:
    """Short, and either without lower-case letters or without closing punctuation (a title in title case)."""
    if len(paragraph) > 80 or not re.search(r"[A-Za-z]", paragraph):
        return False
    return paragraph.upper() == paragraph or paragraph[-1].isalnum()


def sentences(paragraph: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?;])[\"')]*\s+", paragraph) if len(s) >= MIN_SHARED_SENTENCE]


def held_out_range(paragraphs: list[str], share: float, rng: random.Random) -> range:
    """A contiguous run of paragraphs with about `share` of the book's characters."""
    wanted = share * sum(map(len, paragraphs))
    first = rng.randrange(len(paragraphs) // 10, len(paragraphs) * 8 // 10)
    size, last = 0, first
    while size < wanted and last < len(paragraphs):
        size += len(paragraphs[last])
        last += 1
    return range(first, last)


def cut_documents(paragraphs: list[str], opening: bool) -> list[Document]:
    """Cuts at headings. The text before the first heading is an opening only if `opening` says so."""
    documents = [Document([], [], opening)]
    for paragraph in paragraphs:
        if is_heading(paragraph):
            if documents[-1].body:
                documents.append(Document([], []))
            documents[-1].heading.append(paragraph)
            documents[-1].opening = True
        else:
            documents[-1].body.append(paragraph)
    return [d for d in documents if d.body]


def load_corpus(folder: Path, held_out_share: float = 0.02) -> Corpus:
    """Reads all books (SOURCES.md is not one), and splits them into training documents and held-out text."""
    books = [[p.strip() for p in f.read_text().split("\n\n") if p.strip()] for f in sorted(folder.glob("*.txt"))]
    rng = random.Random(HELD_OUT_SEED)
    ranges = [held_out_range(book, held_out_share, rng) for book in books]
    held_out = [p for book, r in zip(books, ranges) for p in book[r.start : r.stop]]
    secret = {s for p in held_out for s in sentences(p)}

    documents: list[Document] = []
    for book, r in zip(books, ranges):
        for part, opening in ((book[: r.start], True), (book[r.stop :], False)):
            kept = [p for p in part if not secret.intersection(sentences(p))]
            documents += cut_documents(kept, opening)
    return Corpus(documents, "\n\n".join(held_out) + "\n")


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-pair encoding in the form of Llama's and Mixtral's tokenizer.json (see the module `WORDS`)."""
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    learner = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=True))
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    reserved = [UNK, BOS, EOS] + [f"<0x{byte:02X}>" for byte in range(256)]
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=reserved, min_frequency=2, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]

    # Published files have no pre-tokenizer: the merges themselves keep pieces inside words.
    merges = [tuple(m) for m in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(learned["vocab"], merges, unk_token=UNK, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([UNK, BOS, EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, BOS_ID)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@dataclass
class EncodedDocument:
    plain: list[int]  # without its heading, which is what a prompt such as "Once upon a time" looks like
    titled: list[int]


def encode_documents(documents: list[Document], tokenizer: Tokenizer) -> list[EncodedDocument]:
    """Ids with <s> at the front of an opening and </s> at every end."""

    def ids(document: Document, paragraphs: list[str]) -> list[int]:
        encoded = tokenizer.encode("\n\n".join(paragraphs)).ids  # starts with <s>
        return encoded[0 if document.opening else 1 :] + [EOS_ID]

    return [EncodedDocument(ids(d, d.body), ids(d, d.heading + d.body)) for d in documents]


def epoch_windows(documents: list[EncodedDocument], context: int, rng: random.Random) -> np.ndarray:
    """One epoch, shuffled: [windows, context + 1] (inputs and targets overlap by all but one token).

    Half of the documents are cut from their first token on, so that many windows start with <s> as prompts do; the
    others, and what is left over, are strung together and cut anywhere, which differs from epoch to epoch.
    """
    windows: list[list[int]] = []
    stream: list[int] = []
    for document in rng.sample(documents, len(documents)):
        ids = document.titled if rng.random() < 0.5 else document.plain
        used = 0
        if rng.random() < 0.5:
            while used + context + 1 <= len(ids):
                windows.append(ids[used : used + context + 1])
                used += context
        stream += ids[used:]
    windows += [stream[i : i + context + 1] for i in range(0, len(stream) - context, context)]
    rng.shuffle(windows)
    return np.array(windows, dtype=np.int64)


def batches(documents: list[EncodedDocument], context: int, batch: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """(epoch, [batch, context + 1]) without end; the last, incomplete batch of an epoch is dropped."""
    epoch = 0
    while True:
        windows = epoch_windows(documents, context, random.Random(f"{seed}-{epoch}"))
        for first in range(0, len(windows) - batch + 1, batch):
            yield epoch, windows[first : first + batch]
        epoch += 1
