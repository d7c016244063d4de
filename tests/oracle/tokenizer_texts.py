"""Texts for the tokenizer golden files: what the small tokenizers are trained on, and strings that are hard to get right.

All written for this repository. Random strings use only code points that every Unicode version since 3.2 classes alike, so that
the golden files hold with any version of PCRE2 and utf8proc.
"""

import random
import unicodedata

TRAINING = """
The engine reads a prompt, cuts it into tokens and asks the router which experts each token needs. Most tokens need
only a few of them. It's fast because we don't move weights when moving activations is cheaper; they're small.
I'll say it again: you've got eight experts, and I'd take two. Let's see what she'd do, what they'll want, who I'm.
A mixture of experts is a sum of functions, weighted by a gate; the gate is a softmax over 8, 64 or 128 scores.
In 2024 the price was $1,234.56 (about 12% less than 3.14159 times as much), at 10:45 on 2024-03-17.
Numbers: 0 1 2 3 10 11 12 100 101 128 256 512 1000 1024 4096 65536 1000000 0x1F 1e-5 3.0 +49 30 1234567.
for (int i = 0; i < n; ++i) {
    if (values[i] != nullptr && values[i]->size() > 0) {
        total += values[i]->size();  // count the bytes
    }
}
def forward(self, hidden_states, attention_mask=None):
    \"\"\"Returns the logits of the last token.\"\"\"
    for layer in self.layers:
        hidden_states = layer(hidden_states, attention_mask)
    return self.head(self.norm(hidden_states))[:, -1]
<html><body class="main"><p>Hello, world!</p><a href="https://example.org/a?b=c&d=e#f">link</a></body></html>
{"model": "mixtral", "messages": [{"role": "user", "content": "Hi!\\n"}], "temperature": 0.0, "stop": null}
SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name ORDER BY 2 DESC LIMIT 10;
Der schnelle braune Fuchs springt über den faulen Hund; größer, schöner, weiter. Straße, Übung, Äpfel, Öl.
Le cœur a ses raisons que la raison ne connaît point. Où est l'élève? Ça va, naïve façon, très bien, déjà vu.
El niño comió jalapeños mañana por la mañana. ¿Cómo estás? ¡Muy bien! La cigüeña vuela sobre el río.
Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Türkçe için ığüşöç İstanbul. Việt Nam đẹp lắm.
Быстрая коричневая лиса прыгает через ленивую собаку. Москва и Санкт-Петербург, хорошо, спасибо, эксперты.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί. Καλημέρα, κόσμε, καλησπέρα.
الثعلب البني السريع يقفز فوق الكلب الكسول. مرحبا بالعالم، كيف حالك اليوم؟ شكرا.
השועל החום המהיר קופץ מעל הכלב העצלן. שלום עולם, מה שלומך היום? תודה.
तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। नमस्ते दुनिया, आप कैसे हैं? धन्यवाद।
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ สวัสดีชาวโลก ขอบคุณ
敏捷的棕色狐狸跳过了懒狗。你好，世界！今天天气怎么样？谢谢。专家混合模型每次只用少数专家。
素早い茶色の狐がのろまな犬を飛び越える。こんにちは、世界！今日はいい天気ですね。ありがとう。カタカナ。
빠른 갈색 여우가 게으른 개를 뛰어넘는다. 안녕하세요, 세계! 오늘 날씨가 어떻습니까? 감사합니다.
aaaa aaaaaaaa aaaaaaaaaaaaaaaa aaa aa hahahahahahaha hahaha 1111 11111111 1111111111111111 00000000 ======== -------- ________
aaaaaaaa aaaaaaaaaaaaaaaa abababab abababababababab éééé éééééééé 22222222 33333333 ======== -------- ________ ........
Emoji: 😀 😃 🎉 🚀 👍 ❤️ 🌍 🤖 and symbols ∑ ∫ √ ∞ ≤ ≥ ≠ → ⇒ € £ ¥ © ® ™ § ¶ • … – — “quoted” ‘text’ «guillemets».
"""

_SCRIPTS = [
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "مرحبا بالعالم، كيف حالك؟", "שָׁלוֹם עוֹלָם",
    "नमस्ते दुनिया क्षत्रिय ज्ञान", "สวัสดีชาวโลก น้ำ", "你好，世界！繁體字測試", "こんにちは、ｶﾀｶﾅ、カタカナ", "안녕하세요 세계",
    "\u1112\u1161\u11ab\u1100\u1173\u11af", "ᄒᆞᆫ글 \u3131\u314f", "Ελληνικά ΑΒΓ άέή", "Привет, мир! Ёжик й",
    "Việt Nam đẹp", "İstanbul ISPARTA ıI", "ÅÄÖ åäö ß ẞ ﬁ ﬂ ﬆ", "ქართული ენა", "Հայերեն լեզու", "አማርኛ ቋንቋ", "தமிழ் மொழி",
    "বাংলা ভাষা", "ខ្មែរ ភាសា", "မြန်မာ ဘာသာ", "བོད་སྐད།", "ᠮᠣᠩᠭᠣᠯ\u180e ᠪᠢᠴᠢᠭ", "ⵜⴰⵎⴰⵣⵉⵖⵜ", "𐌰𐌱𐌲 𝒜𝓑𝔠 𝟘𝟙𝟚",
]
_NORMAL_FORMS = [
    unicodedata.normalize("NFC", "é à ü ñ Å Ç ệ ḍ̇ 각 힣"), unicodedata.normalize("NFD", "é à ü ñ Å Ç ệ ḍ̇ 각 힣"),
    "e\u0301\u0323 e\u0323\u0301", "a\u0315\u0300\u05ae\u0062", "\u0344\u0340\u0341\u0374\u037e\u0387", "\u212b\u2126\u212a",
    "\u0301start", "x\u0301\u0301\u0301\u0301", "\u1100\u1161\u11a8 \u1100\uac00\u11a8", "\uac00\u11a7 \uac01\u11a8",
    "\u0958\u09dc\ufb1d\u2adc", "①②③ ㎏ ﷺ ½ ² ｆｕｌｌ", "\uf900\ufa10\U0002f800", "Z\u0335\u0327\u0310\u035eα\u0345\u0314",
]
_EMOJI = [
    "😀😃😄", "👨‍👩‍👧‍👦 family", "🏳️‍🌈🏴‍☠️", "🇩🇪🇫🇷🇯🇵 🇺🇸", "👍🏻👍🏽👍🏿", "❤️❤ ☺️", "1️⃣2️⃣ #️⃣", "🤷🏽‍♀️ 🧑‍🚀",
    "text😀text", "\U0001f468\u200d", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
]
_SPACES = [
    "", " ", "  ", "   ", " " * 7, " " * 8, " " * 17, " " * 40, "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "\t", "\t\t\t", " \n", "\n ",
    " \n ", "  \n  \n  ", "a  b", "a   b", " a", "  a", "a ", "a  ", "a\n", "\na", "a\n\nb", "a \n b", "a\r\nb", "a\t b", "\t a", " \t\n",
    "a" + " " * 23 + "b", "a" + " " * 24 + "b", "a" + " " * 25 + "b", "x\u00a0y", "x\u00a0\u00a0y", "x\u2003y \u2003", "x\u3000\u3000y",
    "x\u200by", "x\ufeffy", "\ufeffBOM", "x\u2028y\u2029z", "x\u0085y", "x\u180ey \u180e", "x\u1680y", "x\u202fy\u205f", "a\x0bb\x0cc",
    "\x1c\x1d\x1e\x1f", "".join(chr(c) for c in range(0x2000, 0x2010)), "▁", "▁▁", "▁a▁b", " ▁ a", "a ▁", "\u2581\u2581 x",
]
_CONTROLS = [
    "\x00", "a\x00b", "\x00\x00\x00", "\x01\x02\x7f", "\x1b[31mred\x1b[0m", "\u0080\u009f", "\u00ad soft\u00adhyphen", "\u2060\u2061",
    "\ue000\uf8ff\U000f0000\U0010fffd", "\u0378\u0380\u2fe0", "\ufffe\uffff\U0001ffff\U0010ffff", "\ufffd", "\u202eabc\u202c", "\ufdd0",
]
_WORDS = [
    "I'm you're he's she'd we'll they've don't", "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE DON'T", "'s 't 're 've 'm 'll 'd", "'S'T'RE'VE'M'LL'D",
    "it's'll've", "'ſ 'ſx K\u212a '\u017f", "''s ''", "’s ‘t", "0 1 12 123 1234 12345 123456 1234567890", "3.14159 1,000,000 1e-10 0xFF",
    "٠١٢٣٤٥٦٧٨٩ १२३४५ Ⅷ ½ ² ①", "abc123def456", "snake_case camelCase PascalCase SCREAMING_CASE", "a.b,c;d:e!f?g", "!!! ??? ... --- ===",
    "((([[[{{{}}}]]])))", "$100 €50 £20 ¥1000", "C++ C# F# .NET", "user@example.org https://example.org/?q=a+b&c=%20#x", "\\n \\t \\\\",
    "\"quoted\" 'single' `tick`", "for(i=0;i<10;i++){x[i]=i*i;}", "    def f(self):\n        return None\n", "\tif x:\r\n\t\tpass\r\n",
    "<p class=\"x\">Tom &amp; Jerry</p>", "a" * 300, "ab" * 150, "abc" * 100, "é" * 100, "你" * 100, "😀" * 30, "1" * 100, "!" * 100, "_" * 70, "-" * 70,
    "supercalifragilisticexpialidocious" * 4, "x" + "\u0301" * 60, "router experts tokens activations weights", "\n".join("line %d" % i for i in range(6)),
]
_SPECIALS = [
    "<s>", "</s>", "<unk>", "<s></s>", "<s> hello </s>", " <s>", "<s> ", "hello<s>world", "hello <s> world", "<s><s><s>", "< s>", "<s", "s>", "<<s>>",
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|><|im_end|>", "<|im_start", "<|im_end|>|>", "<|endoftext|>", "a<|endoftext|>b", "  <|endoftext|>  ",
    "<|begin_of_text|>", "<|eot_id|>\n\n", "<|begin_of_text|><|begin_of_text|>x", "<|im_start|>" * 5, "[INST] hi [/INST]", "<0x41>", "<0x0A><0xE4>",
    "|||EMAIL_ADDRESS|||", "||| |||", "<|padding|>", "e\u0301<s>\u0301e", "<s>\n</s>\n", "▁<s>▁", "\u0301<s>", "<｜end▁of▁sentence｜>",
]

HARD = (_SCRIPTS + _NORMAL_FORMS + _EMOJI + _SPACES + _CONTROLS + _WORDS + _SPECIALS)

# Repeated to a length of 100,000 characters: {name: unit}.
LONG_UNITS = {"letter": "a", "pair": "ab", "space": " ", "digit": "1", "accent": "é", "sentence": "The experts don't wait, 12 tokens do.\n"}


def stable_code_points():
    """Code points whose category Unicode 3.2 and Python's version agree on, and that are assigned or private."""
    old = unicodedata.ucd_3_2_0
    return [c for c in range(0x110000)
            if not 0xD800 <= c < 0xE000 and old.category(chr(c)) == unicodedata.category(chr(c)) != "Cn"]


def random_texts(count, seed):
    rng = random.Random(seed)
    everything = stable_code_points()
    small = [c for c in everything if c < 0x3000]
    pieces = ["'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "<s>", "</s>", "<|im_end|>", "the", " experts", "12", "é", "e\u0301", "😀", "▁", "<0x41>", ".", "\u00a0"]
    texts = []
    for i in range(count):
        length = rng.randint(1, 16)
        if i % 3 == 0:
            texts.append("".join(chr(rng.choice(everything)) for _ in range(length)))
        elif i % 3 == 1:
            texts.append("".join(chr(rng.choice(small)) if rng.random() < 0.4 else rng.choice(pieces) for _ in range(length)))
        else:
            texts.append("".join(rng.choice(pieces) for _ in range(length)))
    return texts
