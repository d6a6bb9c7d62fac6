"""Makes the small vocabularies of tests/golden/tokenizer: gpt2_like.json (byte-level, GPT-2 pattern, NFC) and
fallback.json (space marks, byte fallback), by plain byte-pair training on the quickstart text and a few lines more;
whole.json (byte-level), trained on whole lines so that its merges cross the cuts of every pattern; and variants.json,
which says how other families' tokenizers differ from these (and which long lines all are tried on).
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


def whole():
    letters = byte_alphabet()
    words = collections.Counter()
    strings = json.loads((HERE / "strings.json").read_text(encoding="utf-8"))
    for text in [text for text in strings if "<" not in text] + MORE.splitlines(keepends=True) * 3:
        words[tuple(letters[b] for b in text.encode())] += 1
    merges = train(words, 400)
    vocab = {token: i for i, token in enumerate(sorted(letters.values()) + [a + b for a, b in merges])}
    write("whole.json", {
        "added_tokens": [added(len(vocab), "<|endoftext|>", special=True)], "normalizer": None,
        "pre_tokenizer": BYTES, "post_processor": None, "decoder": BYTES,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "vocab": vocab,
                  "merges": [f"{a} {b}" for a, b in merges]}})


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama3": SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST,
    "qwen2": SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
              r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + REST,
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT}?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + REST,
}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": [*parts, BYTES]}


def variants():
    """[name, base, parts to replace, settings of the model to replace]"""
    metaspace = {"type": "Metaspace", "replacement": MARK}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    found = [[name, "whole.json", {"normalizer": {"type": "NFC"} if name == "qwen2" else None,
                                   "pre_tokenizer": sequence(split(pattern))}, {"ignore_merges": name != "qwen2"}]
             for name, pattern in PATTERNS.items()]
    found += [[form, "whole.json", {"normalizer": {"type": form}, "pre_tokenizer": BYTES}, {}]
              for form in ("NFD", "NFKC", "NFKD")]
    found += [[f"{behavior} {invert}", "whole.json",
               {"pre_tokenizer": sequence(split(r"\s+|\p{P}", behavior, invert))}, {}]
              for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
              for invert in (False, True)]
    found += [["falcon", "whole.json", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"}, {**BYTES, "use_regex": True},
        {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")]}}, {}]]
    found += [["gemma", "fallback.json", {"normalizer": spaces, "post_processor": None, "pre_tokenizer":
                                          split(" ", "MergedWithPrevious", False, "String")}, {}]]
    found += [[f"metaspace {scheme} {cut}", "fallback.json",
               {"normalizer": None, "pre_tokenizer": {**metaspace, "prepend_scheme": scheme, "split": cut}}, {}]
              for scheme in ("always", "first", "never") for cut in (False, True)]
    found += [["no fallback", "fallback.json", {}, {"byte_fallback": False}],
              ["unfused", "fallback.json", {}, {"byte_fallback": False, "fuse_unk": False}]]
    long = [["a", 100000], [" ", 100000], ["the cat's ", 10000], ["7", 100000], ["A", 100000], ["aB", 50000],
            ["\u00e9\u0301", 30000], ["\u65e5", 33000], ["\U0001f600", 25000], [" \n", 50000], ["!? ", 33000]]
    text = ",\n".join(json.dumps(variant) for variant in found)
    (HERE / "variants.json").write_text('{"long": ' + json.dumps(long) + ',\n"variants": [\n' + text + "\n]}\n")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    gpt2_like()
    fallback()
    whole()
    variants()
