#!/usr/bin/env python3
"""Makes the golden files for src/text: small tokenizers of every family kind, and what Hugging Face `tokenizers` does with them.

    python make_tokenizer_golden.py            write tests/oracle/tokenizer/ again
    python make_tokenizer_golden.py --check    make everything in memory and compare with what is committed

tokenizer/texts.json          the texts, shared by all kinds
tokenizer/<kind>/tokenizer.json
tokenizer/<kind>/cases.json   encode: one row for each text: [ids with special tokens, ids without, decoded, decoded without
                                special tokens]; the second is null if it equals the first, a decoded text if it equals the text
                              decode: [ids, decoded, decoded without special tokens] for random ids
                              long: {name: [unit, bytes of text, number of ids, FNV-1a of the ids]} for texts of 100,000 bytes
tokenizer/components.json     normalizers, pre-tokenizers and decoders on their own
The tokenizer of models/demo is compared too (tokenizer/demo/cases.json only).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import tokenizer_texts
from tokenizer_components import component_cases

HERE = Path(__file__).parent
OUT = HERE / "tokenizer"
DEMO = HERE.parent.parent / "models" / "demo" / "tokenizer.json"

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
LLAMA_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def template(token, token_id):
    def special(type_id):
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    def text(name, type_id):
        return {"Sequence": {"id": name, "type_id": type_id}}
    return {"type": "TemplateProcessing", "single": [special(0), text("A", 0)],
            "pair": [special(0), text("A", 0), special(1), text("B", 1)],
            "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}}}


def added(token_id, content, special=True, normalized=False):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": special}


def train(pre_tokenizer, vocab_size, alphabet, special_tokens=()):
    """Vocabulary and merges of a byte-pair model trained on our text."""
    whole = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": pre_tokenizer, "post_processor": None,
             "decoder": None, "truncation": None, "padding": None, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=list(special_tokens), show_progress=False)
    tokenizer.train_from_iterator(tokenizer_texts.TRAINING.splitlines(keepends=True), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def bpe(vocab, merges, **options):
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return model | options | {"vocab": vocab, "merges": merges}


def tokenizer_json(model, added_tokens, normalizer=None, pre_tokenizer=None, post_processor=None, decoder=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}


def qwen2():
    pre = sequence(split(QWEN2), BYTE_LEVEL)
    vocab, merges = train(pre, 1000, pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return tokenizer_json(bpe(vocab, merges), [added(len(vocab) + i, name) for i, name in enumerate(names)],
                          {"type": "NFC"}, pre, BYTE_LEVEL, BYTE_LEVEL)


def olmoe():
    """GPT-NeoX style: runs of spaces are ordinary added tokens; merges written in the old way."""
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab, merges = train(pre, 700, pre_tokenizers.ByteLevel.alphabet(), ["|||IP_ADDRESS|||", "<|padding|>"])
    added_tokens = [added(0, "|||IP_ADDRESS|||", special=False, normalized=True), added(1, "<|padding|>")]
    for i, spaces in enumerate(range(24, 1, -1)):
        added_tokens.append(added(len(vocab) + i, " " * spaces, special=False, normalized=True))
    rest = len(vocab) + 23
    added_tokens += [added(rest, "|||EMAIL_ADDRESS|||", special=False, normalized=True), added(rest + 1, "<|endoftext|>")]
    post = template("<|endoftext|>", rest + 1)
    model = bpe(vocab, [" ".join(pair) for pair in merges])
    return tokenizer_json(model, added_tokens, {"type": "NFC"}, pre, post, pre)


def llama_vocabulary(vocab_size):
    """As converted from SentencePiece: bytes first, and a merge for every way to cut a token in two."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    pre = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    trained, pairs = train(pre, vocab_size, [])
    learned = [a + b for a, b in pairs]
    letters = [c for c in trained if len(c) == 1 and c not in "日語字今天気" and c != "\n"]
    for token in learned + letters:
        vocab.setdefault(token, len(vocab))
    merges = []
    for token in learned:
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [cut for cut in cuts if cut[0] in vocab and cut[1] in vocab]
        merges += sorted(known, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
    return vocab, merges


def llama(normalizer, pre_tokenizer):
    vocab, merges = llama_vocabulary(850)
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    names = ["<unk>", "<s>", "</s>"]
    return tokenizer_json(model, [added(i, name) for i, name in enumerate(names)], normalizer, pre_tokenizer,
                          template("<s>", 1), LLAMA_DECODER)


def llama_legacy():
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    return llama(normalizer, None)


def llama_metaspace():
    return llama(None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False})


def llama3():
    pre = sequence(split(LLAMA3), BYTE_LEVEL)
    vocab, merges = train(pre, 800, pre_tokenizers.ByteLevel.alphabet())
    vocab["ĠexpertsĠandĠrouters"] = len(vocab)  # words that no merge reaches
    vocab["<<"] = len(vocab)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    added_tokens = [added(len(vocab) + i, name) for i, name in enumerate(names)]
    post = {"type": "Sequence", "processors": [BYTE_LEVEL, template(names[0], added_tokens[0]["id"])]}
    return tokenizer_json(bpe(vocab, merges, ignore_merges=True), added_tokens, None, pre, post, BYTE_LEVEL)


def deepseek():
    pre = sequence(*[split(pattern) for pattern in DEEPSEEK], BYTE_LEVEL)
    vocab, merges = train(pre, 700, pre_tokenizers.ByteLevel.alphabet())
    names = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
    added_tokens = [added(len(vocab), names[0]), added(len(vocab) + 1, names[1]),
                    added(len(vocab) + 2, "<｜User｜>", special=False), added(len(vocab) + 3, "hello", special=False, normalized=True)]
    added_tokens[2] |= {"lstrip": True, "rstrip": True}
    added_tokens[3] |= {"single_word": True}
    return tokenizer_json(bpe(vocab, merges), added_tokens, {"type": "Sequence", "normalizers": []}, pre,
                          template(names[0], added_tokens[0]["id"]), BYTE_LEVEL)


def unknown():
    """No byte fallback: unknown characters become one <unk> each. No decoder."""
    vocab, merges = train({"type": "WhitespaceSplit"}, 600, [], ["<unk>", "[MASK]"])
    vocab = {token: i for i, token in enumerate(token for token in vocab if token not in "xyz")}
    merges = [pair for pair in merges if pair[0] in vocab and pair[1] in vocab and "".join(pair) in vocab]
    added_tokens = [added(0, "<unk>"), added(1, "[MASK]") | {"lstrip": True}]
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}]}
    pre = sequence({"type": "Whitespace"}, {"type": "Digits", "individual_digits": True})
    return tokenizer_json(bpe(vocab, merges, unk_token="<unk>"), added_tokens, normalizer, pre)


KINDS = {"qwen2": qwen2, "olmoe": olmoe, "llama": llama_legacy, "llama-metaspace": llama_metaspace, "llama3": llama3,
         "deepseek": deepseek, "unknown": unknown}


def fnv1a(ids):
    value = 0xCBF29CE484222325
    for token_id in ids:
        value = ((value ^ token_id) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def cases(tokenizer, texts):
    def either(value, usual):
        return None if value == usual else value

    def decode(ids, skip):
        return tokenizer.decode(ids, skip_special_tokens=skip)
    encode_rows = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        encode_rows.append([ids, either(plain, ids), either(decode(ids, False), text), either(decode(ids, True), text)])
    rng = random.Random(7)
    size = tokenizer.get_vocab_size() + 2  # two ids that name nothing
    decode_rows = []
    for _ in range(60):
        top = rng.choice([size, min(size, 300)])  # the first ids are mostly bytes
        ids = [rng.randrange(top) for _ in range(rng.randint(0, 12))]
        decode_rows.append([ids, decode(ids, False), decode(ids, True)])
    long_rows = {}
    for name, unit in tokenizer_texts.LONG_UNITS.items():
        text = unit * (100_000 // len(unit.encode()))
        ids = tokenizer.encode(text).ids
        long_rows[name] = [unit, len(text.encode()), len(ids), fnv1a(ids)]
    return {"encode": encode_rows, "decode": decode_rows, "long": long_rows}


def compact(value):
    """One row a line, so that a change shows as a small diff."""
    if isinstance(value, dict):
        rows = [f"{json.dumps(key)}: {compact(item)}" for key, item in value.items()]
        return "{" + ",\n".join(rows) + "}\n"
    if isinstance(value, list):
        return "[" + ",\n".join(json.dumps(item, ensure_ascii=True, separators=(",", ":")) for item in value) + "]"
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def make():
    """{path: content} of all golden files."""
    texts = tokenizer_texts.HARD + tokenizer_texts.random_texts(240, seed=1)
    files = {"texts.json": compact(texts) + "\n", "components.json": compact(component_cases(texts)) + "\n"}
    for kind, make_kind in KINDS.items():
        whole = json.dumps(make_kind(), ensure_ascii=False, separators=(",", ":"))
        files[f"{kind}/tokenizer.json"] = whole + "\n"
        files[f"{kind}/cases.json"] = compact(cases(Tokenizer.from_str(whole), texts))
    if DEMO.exists():
        files["demo/cases.json"] = compact(cases(Tokenizer.from_file(str(DEMO)), texts))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    check = parser.parse_args().check
    differs = 0
    for name, content in make().items():
        path = OUT / name
        if check:
            same = path.exists() and path.read_text() == content
            differs += not same
            print("same     " if same else "different", name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(f"{len(content.encode()):8d} {name}")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
