"""Makes the two small vocabularies of tests/golden/tokenizer: gpt2_like.json (byte-level, GPT-2 pattern, NFC) and
fallback.json (space marks, byte fallback), by plain byte-pair training on the quickstart text and a few lines more.
Run: python3 tests/golden/tokenizer_train.py, then tokenizer_oracle.mjs for the ids."""

import collections
import json
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent / "tokenizer"
QUICKSTART = HERE.parents[2] / "jobs" / "quickstart" / "text.jsonl"
MARK = "\u2581"
MORE = """I'm sure they've said we'll see what's there. It isn't so; you'd know. THEY'RE HERE, WE'VE SEEN.
caf\u00e9 na\u00efve \u00fcber se\u00f1or r\u00e9sum\u00e9 caf\u00e9 \u00fcber 1234567 2024 100 3.14 if (a == b) { return 0; }
\u65e5\u672c\u8a9e\u306e\u6587\u7ae0 \u4e2d\u6587 \u65e5\u672c \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442 \u03b1\u03b2\u03b3 \ud55c\uad6d\uc5b4
\tif x:\n\t\treturn y\n\n    indented    words\r\n"""


def corpus():
    lines = QUICKSTART.read_text(encoding="utf-8").splitlines()[:400]
    return [json.loads(line)["text"] for line in lines] + [MORE] * 40


def byte_alphabet():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def train(words, merges):
    """Merges of most frequent pairs, ties by text; words: symbols -> count."""
    found = []
    for _ in range(merges):
        pairs = collections.Counter()
        for symbols, count in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        words = {merged(symbols, best): count for symbols, count in words.items()}
    return found


def merged(symbols, pair):
    out = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def added(number, content, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False, **flags}


def write(name, parts):
    text = json.dumps({"version": "1.0", "truncation": None, "padding": None, **parts}, ensure_ascii=False, indent=0)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def gpt2_like():
    letters = byte_alphabet()
    words = collections.Counter()
    pattern = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+")
    for text in corpus():
        for word in pattern.findall(text):
            words[tuple(letters[b] for b in word.encode())] += 1
    merges = train(words, 300)
    vocab = {token: i for i, token in enumerate(sorted(letters.values()) + [a + b for a, b in merges])}
    n = len(vocab)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokens = [added(n, "<|endoftext|>", special=True), added(n + 1, "  ", normalized=True),
              added(n + 2, "    ", normalized=True), added(n + 3, "<mask>", lstrip=True, special=True),
              added(n + 4, "<right>", rstrip=True)]
    write("gpt2_like.json", {
        "added_tokens": tokens, "normalizer": {"type": "NFC"}, "pre_tokenizer": level,
        "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "vocab": vocab,
                  "merges": [f"{a} {b}" for a, b in merges]}})


def fallback():
    words, letters = collections.Counter(), collections.Counter()
    for text in corpus():
        for word in re.findall(MARK + r"*[^" + MARK + r"]+", MARK + text.replace(" ", MARK)):
            words[tuple(word)] += 1
            letters.update(word)
    merges = train(words, 200)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokens += [a + b for a, b in merges] + [c for c, _ in sorted(letters.items()) if c.isprintable()]
    tokens = list(dict.fromkeys(tokens))
    merges = [pair for pair in merges if all(c.isprintable() for c in pair[0] + pair[1])]
    vocab = {token: i for i, token in enumerate(tokens)}
    special = [added(i, tokens[i], special=True) for i in range(3)]
    write("fallback.json", {
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                      {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": [list(pair) for pair in merges]}})


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    gpt2_like()
    fallback()
