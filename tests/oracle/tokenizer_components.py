"""Golden cases for single components of a tokenizer, with the options that whole tokenizers rarely use together."""

import json

from tokenizers import Tokenizer

_REPLACE = {"type": "Replace", "content": "-"}
_SPLIT = {"type": "Split", "invert": False, "behavior": "Isolated"}
_BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

NORMALIZERS = [{"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")] + [
    {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Prepend", "prepend": "▁"}, _REPLACE | {"pattern": {"String": "a"}}, _REPLACE | {"pattern": {"String": "  "}},
    _REPLACE | {"pattern": {"Regex": r" {2,}"}}, _REPLACE | {"pattern": {"Regex": r"\s*"}}, _REPLACE | {"pattern": {"Regex": r"$|^"}},
    {"type": "Sequence", "normalizers": [{"type": "NFD"}, _REPLACE | {"pattern": {"Regex": r"\p{Mn}"}, "content": ""}]},
]

_PATTERNS = [r"\s", r"\S+", r"\w+", r"[\W\d]", r"\d", r"\D+", r"[^\s\p{L}\p{N}]+", r"[\S\n]", r"\p{P}|\p{S}", r"(?i:'s|'t|don|i|k|s+)", r"x*",
             r"(?<=\n)a|b(?!c)", "[一-龥぀-ゟ゠-ヿ]+", r"\p{Lu}?\p{Ll}+", r"[^\p{M}]\p{M}*", r"\u00e9|\x{1F600}|\x41", r".", r"(?>a+)b|a{2,3}", r"\v|\r\n?",
             r"[!-/:-@\[-`{-~]", r"\p{^L}", r"\P{L}+"]
_PATTERNS.remove(r"[\W\d]")  # refused on purpose

PRE_TOKENIZERS = (
    [_SPLIT | {"pattern": {"Regex": pattern}} for pattern in _PATTERNS]
    + [_SPLIT | {"pattern": {"String": " "}, "behavior": behavior, "invert": invert} for behavior in _BEHAVIORS for invert in (False, True)]
    + [_SPLIT | {"pattern": {"Regex": r"\s+|x*"}, "behavior": behavior} for behavior in _BEHAVIORS]
    + [{"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex} for prefix in (False, True) for regex in (False, True)]
    + [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut} for scheme in ("first", "never", "always") for cut in (False, True)]
    + [{"type": "Metaspace", "replacement": "_", "add_prefix_space": True}]
    + [{"type": "Digits", "individual_digits": individual} for individual in (False, True)]
    + [{"type": "Punctuation", "behavior": behavior} for behavior in ("Isolated", "Contiguous")]
    + [{"type": "Whitespace"}, {"type": "WhitespaceSplit"}]
    + [{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}]
)

DECODERS = [
    None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Strip", "content": "a", "start": 2, "stop": 0},
    {"type": "Replace", "pattern": {"Regex": r"[ab]+"}, "content": "x"},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": "-"}]},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}]},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
    {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Fuse"}]},
    {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]},
]
_TOKENS = ["a", "b", "ab", "ba", " ", "  ", " a", "a ", "▁", "▁a", "a▁b", "▁▁", "<0x41>", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "<0xc3>", "<0xa9>", "<0x4>",
           "Ġ", "Ã", "©", "Ġa", "â", "Ĥ", "¬", "é", "你", "aaa", "Ċ", "ð", "Ł", "ĺ", "Ģ"]
# Ids into the list above.
_TOKEN_RUNS = [[], [0], [0, 1], [4, 0, 4], [5, 5, 0], [8, 0, 8], [9, 9], [10, 11], [12], [13, 14, 15], [13, 14], [13, 14, 0], [15, 13, 14, 15], [16], [16, 12], [17, 18],
               [17, 18, 16], [19, 12], [13, 14, 15, 13, 14, 15], [20, 0, 20], [21, 22], [21], [22], [21, 0], [24, 25, 26], [24, 25], [24, 25, 21, 22], [27, 28], [29, 0],
               [6, 7, 6], [0, 1, 0, 1], [0, 3, 1], [30, 23], [31, 32, 33, 34], [31, 32], [31, 31, 32, 33, 34], [4, 4, 4, 0], [5], [4], [7, 7]]


def _tokenizer(vocab, **components):
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
             "post_processor": None, "decoder": None, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    return Tokenizer.from_str(json.dumps(whole | components))


def component_cases(texts):
    """{part: [[config, [[input, output]...]]...]}; texts that a component leaves alone are left out."""
    normalizers, pre_tokenizers, decoders = [], [], []
    for config in NORMALIZERS:
        normalizer = _tokenizer({}, normalizer=config).normalizer
        pairs = [[text, normalizer.normalize_str(text)] for text in texts]
        normalizers.append([config, [pair for pair in pairs if pair[0] != pair[1]][:40]])
    for config in PRE_TOKENIZERS:
        pre_tokenizer = _tokenizer({}, pre_tokenizer=config).pre_tokenizer
        pairs = [[text, [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]] for text in texts if len(text) < 40]
        changed = [pair for pair in pairs if pair[1] != [pair[0]]]
        pre_tokenizers.append([config, changed[:: max(1, len(changed) // 25)]])
    for config in DECODERS:
        tokenizer = _tokenizer({token: i for i, token in enumerate(_TOKENS)}, decoder=config)
        decoders.append([config, [[[_TOKENS[i] for i in run], tokenizer.decode(run)] for run in _TOKEN_RUNS]])
    return {"normalizers": normalizers, "pre_tokenizers": pre_tokenizers, "decoders": decoders}
