"""Makes the small vocabularies of tests/golden/tokenizer: gpt2_like.json (byte-level, GPT-2 pattern, NFC) and
fallback.json (space marks, byte fallback), by plain byte-pair training on the quickstart text and a few lines more;
whole.json (byte-level), trained on whole lines so that its merges cross the cuts of every pattern; clip_like.json (byte-level,
words that end in </w>), gpt1_like.json (the same over characters, BERT's normalizer), prefix.json (parts of words that start with
##); and variants.json, which says how other families' tokenizers and decoders differ from these, and which texts all are tried on
beside strings.json.
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


def merged(symbols, pair, join=lambda a, b: a + b):
    out = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] = join(out[-1], symbol)
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


def affixed(word, prefix="", suffix=""):
    """The units of a word: all but the first with the prefix, the last with the suffix."""
    return tuple((prefix if i else "") + unit + (suffix if i + 1 == len(word) else "") for i, unit in enumerate(word))


def train_affixed(spell, merges, prefix="", suffix=""):
    """Words of letters, numbers or other characters, as `spell` gives their units; all units in all places, then merges."""
    words, join = collections.Counter(), lambda a, b: a + b[len(prefix):]
    for text in corpus():
        for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]+", text.lower()):
            words[affixed(spell(word), prefix, suffix)] += 1
    units = sorted({unit for word in words for unit in word})
    found = []
    for _ in range(merges):
        pairs = collections.Counter()
        for symbols, count in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        words = {merged(symbols, best, join): count for symbols, count in words.items()}
    return units, [join(a, b) for a, b in found], [f"{a} {b}" for a, b in found]


def bpe(tokens, merges, **settings):
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **settings, "vocab": vocab, "merges": merges}


def clip_like():
    letters = byte_alphabet()
    _, joined, merges = train_affixed(lambda word: [letters[b] for b in word.encode()], 150, suffix="</w>")
    plain = sorted(letters.values())
    model = bpe(plain + [c + "</w>" for c in plain] + joined, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    ends = ["<|startoftext|>", "<|endoftext|>"]
    for token in ends:
        model["vocab"][token] = len(model["vocab"])
    first, last = ([token, model["vocab"][token]] for token in ends)
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    write("clip_like.json", {
        "added_tokens": [added(number, token, special=True) for token, number in (first, last)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Lowercase"}]},
        "pre_tokenizer": sequence(split(words, "Removed", True)),
        "post_processor": {"type": "RobertaProcessing", "sep": last, "cls": first, "trim_offsets": False, "add_prefix_space": False},
        "decoder": BYTES, "model": model})


def gpt1_like():
    units, joined, merges = train_affixed(list, 150, suffix="</w>")
    model = bpe(["<unk>"] + units + joined, merges, unk_token="<unk>", end_of_word_suffix="</w>")
    write("gpt1_like.json", {
        "added_tokens": [added(0, "<unk>", special=True)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None,
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"}, "model": model})


def prefixed():
    units, joined, merges = train_affixed(list, 150, prefix="##")
    model = bpe(["[UNK]"] + units + joined, merges, unk_token="[UNK]", continuing_subword_prefix="##", fuse_unk=True)
    write("prefix.json", {
        "added_tokens": [added(0, "[UNK]", special=True)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}]},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "model": model})


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


NORMALIZERS = {
    "Lowercase": {"type": "Lowercase"}, "StripAccents": {"type": "StripAccents"},
    **{f"Strip {left} {right}": {"type": "Strip", "strip_left": left, "strip_right": right} for left in (False, True) for right in (False, True)},
    "Replace spaces": {"type": "Replace", "pattern": {"Regex": r" {2,}|[\t\r\n]+"}, "content": "\u2581"},
    "Replace runs": {"type": "Replace", "pattern": {"Regex": "o+|[^ ]$"}, "content": "-o"},
    "Replace ends": {"type": "Replace", "pattern": {"Regex": r"^\s+|[.,]$"}, "content": "*"},
    "Replace words": {"type": "Replace", "pattern": {"Regex": r"\b\w"}, "content": ""},
    "Bert cased": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": False},
    "Bert accents": {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False, "strip_accents": True, "lowercase": False},
}
PRE_TOKENIZERS = {
    "Whitespace": {"type": "Whitespace"}, "WhitespaceSplit": {"type": "WhitespaceSplit"}, "BertPreTokenizer": {"type": "BertPreTokenizer"},
    "CharDelimiterSplit": {"type": "CharDelimiterSplit", "delimiter": "e"},
    "Digits each": {"type": "Digits", "individual_digits": True}, "Punctuation": {"type": "Punctuation"},
    "words": split(r"\w+|\W", "Isolated"), "boundaries": split(r"\b", "Isolated"), "no boundaries": split(r"\B", "Isolated"),
    "hexadecimal": split(r"\h+|[\h_]", "Isolated"), "lines": split(r"^.|.$", "MergedWithNext"), "classes": split(r"[\w.]+", "Removed", True),
}
DECODERS = {
    "fallback": ["fallback.json", None],
    "fallback alone": ["fallback.json", {"type": "ByteFallback"}],
    "none": ["fallback.json", {}],
    "metaspace": ["fallback.json", {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": True}],
    "metaspace never": ["fallback.json", {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "never", "split": True}],
    "metaspace older": ["fallback.json", {"type": "Metaspace", "replacement": MARK, "add_prefix_space": True}],
    "strip each": ["fallback.json", {"type": "Strip", "content": MARK, "start": 1, "stop": 0}],
    "strip fused": ["fallback.json", {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": MARK, "start": 3, "stop": 0}]}],
    "replace pattern": ["fallback.json", {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"Regex": MARK + "+|[aeiou]"}, "content": " "}, {"type": "Fuse"},
        {"type": "Replace", "pattern": {"String": "  "}, "content": "_"}]}],
    "bytes": ["whole.json", None], "suffix in bytes": ["clip_like.json", None],
    "suffix": ["gpt1_like.json", None], "prefix": ["prefix.json", None],
    "prefix as it is": ["prefix.json", {"type": "WordPiece", "prefix": "##", "cleanup": False}],
}
MORE_TEXTS = [
    "\u0130stanbul I\u011eDIR \u015eI\u015eLI i\u0307", "\u0391\u03a3 \u03a3\u0391\u03a3 \u1f48\u0394\u03a5\u03a3\u03a3\u0395\u038e\u03a3", "\u1e9e \u00df \u01c5 \u01c6 \u01c4 \u212b \u2126",
    "\u24b6\u24d1 \u2167 \u2177 \U0001f170 \U0001f130", "a\u200db \u200c\u0904\u0903", "\u0915\u094d\u0937\u093f \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u00a0 lead and trail \u3000", "x\u0301\u0323 \u0301start e\u20dd\u0903 \u00e9t\u00e9", "\u6f22\u5b57\u3068\u4e2d\u6587mixed \u4dc0 \U00020000\U0002a700 \uf900",
    "a\u0007b\u00adc\ufffd d\u2028e\u0085f \ue000\u0378", "foo_bar-baz.qux 3.14e-10 deadBEEF", "\tTabs\tand\nlines\r\nmore.\n\n ,", "don't you'll WE'VE she 's n't do not .",
    "</w> a</w>b ##x #### <0x41> <0xZZ> <0xe9><0xE9>", " ", "\n", "\ufb01 \ufb02 \u0664\u0665 \u00bd \u00b2 \u216b", "boo oo o", "\u2581\u2581two \u2581marks\u2581\u2581 \u2581",
]


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
    found += [["clip", "clip_like.json", {}, {}], ["gpt1", "gpt1_like.json", {}, {}], ["prefix", "prefix.json", {}, {}],
              ["prefix alone", "prefix.json", {"normalizer": None, "pre_tokenizer": None}, {"unk_token": None}],
              ["suffix fused", "gpt1_like.json", {"pre_tokenizer": None}, {"fuse_unk": True, "ignore_merges": True}],
              ["metaspace older", "fallback.json", {"normalizer": None, "pre_tokenizer":
                                                   {**metaspace, "add_prefix_space": True, "prepend_scheme": "never"}}, {}]]
    found += [[name, "whole.json", {"normalizer": part, "pre_tokenizer": BYTES}, {}] for name, part in NORMALIZERS.items()]
    found += [[name, "gpt1_like.json", {"normalizer": None, "pre_tokenizer": part}, {}] for name, part in PRE_TOKENIZERS.items()]
    long = [["a", 100000], [" ", 100000], ["the cat's ", 10000], ["7", 100000], ["A", 100000], ["aB", 50000],
            ["\u00e9\u0301", 30000], ["\u65e5", 33000], ["\U0001f600", 25000], [" \n", 50000], ["!? ", 33000]]
    parts = {"more": [json.dumps(MORE_TEXTS)], "long": [json.dumps(long)], "variants": map(json.dumps, found),
             "decoders": [json.dumps([name, *rest]) for name, rest in DECODERS.items()]}
    rows = [f'"{key}": [\n' + ",\n".join(lines) + "\n]" if key in ("variants", "decoders") else f'"{key}": {lines[0]}' for key, lines in parts.items()]
    (HERE / "variants.json").write_text("{" + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    gpt2_like()
    fallback()
    whole()
    clip_like()
    gpt1_like()
    prefixed()
    variants()
