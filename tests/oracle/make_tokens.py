#!/usr/bin/env python3
"""Goldens of the tokenisers, made with Hugging Face tokenizers.

  make_tokens.py sample OUT_DIR FILE...       tiny tokenisers of every kind, trained on FILEs, and cases.jsonl
      [--real NAME=TOKENIZER_JSON]... [--cases CASES_JSONL]   real vocabularies and their cases beside them
  make_tokens.py uni > libcommon/text/tok_uni_tab.h          Unicode classes as the library's regular expressions see them
  make_tokens.py uni-new > libcommon/text/tok_uni_new.h      code points assigned after Unicode 14 (needs Python 3.11's tables)
  make_tokens.py marks > libcommon/text/tok_marks_tab.h      marks that StripAccents leaves
  make_tokens.py marks-bert > libcommon/text/tok_marks_bert_tab.h   and BertNormalizer
  make_tokens.py random TOKENIZER_JSON N SEED                N more cases over random Unicode, to stdout

The goldens in the tree: tokenizers 0.23.3, Python 3.11.7, zstd 1.5.4.
"""
import json
import os
import random
import subprocess
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CATS = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs".split()
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^" + "\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[" + "\r\n" + r"]*|\s*["
            + "\r\n" + r"]+|\s+(?!\S)|\s+"]


# --- Unicode ---

def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    for i in range(0, len(SCALARS), 65536):
        for piece, _ in split.pre_tokenize_str("".join(map(chr, SCALARS[i:i + 65536]))):
            found.update(map(ord, piece))
    return found


def cut(pre):
    return {c for c in SCALARS if len(pre.pre_tokenize_str("\ue000" + chr(c))) > 1}


def classes():
    v = [CATS.index("Cs") if 0xD800 <= c < 0xE000 else 0 for c in range(0x110000)]
    for i, cat in enumerate(CATS[:-1]):
        for c in members(r"\p{%s}" % cat):
            v[c] = i
    for bit, found in ((32, cut(pre_tokenizers.Punctuation("isolated"))), (64, members(r"\w")), (128, cut(pre_tokenizers.Digits(True)))):
        for c in found:
            v[c] |= bit
    return v


def runs(v):
    """(first, a, b): classes alternate a, b where b is not 0."""
    out, c = [], 0
    while c < 0x110000:
        a, k = v[c], c
        b = v[c + 1] if c + 1 < 0x110000 else a
        while a != b and b and k + 1 < 0x110000 and v[k] == a and v[k + 1] == b:
            k += 2
        if k - c >= 6:
            out.append((c, a, b))
        else:
            k = c
            while k < 0x110000 and v[k] == a:
                k += 1
            out.append((c, a, 0))
        c = k
    return out


def make_uni():
    print("/* Made by tests/oracle/make_tokens.py uni: what tokenizers 0.23.3 (Oniguruma,\n"
          " * Unicode 16) answers for each code point. Entry: first code point << 16 | class\n"
          " * b << 8 | class a; a run alternates a, b when b is not 0, and ends where the next\n"
          " * begins. Class: see tok_uni.h. */")
    r = runs(classes())
    for i in range(0, len(r), 10):
        print(", ".join("0x%x" % (c << 16 | b << 8 | a) for c, a, b in r[i:i + 10]) + ",")


def make_marks(bert):
    """Runs of marks that a normaliser leaves, unassigned code points between them as it may be."""
    strip = (normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False) if bert
             else normalizers.StripAccents())
    marks = [CATS.index(c) for c in (("Mn",) if bert else ("Mn", "Mc", "Me"))]
    v = classes()
    gone = {c for c in SCALARS if strip.normalize_str("a" + chr(c)) == "a"}
    out = []
    for c in (c for c in SCALARS if v[c] & 31 in marks and c not in gone):
        if out and not any(x in gone for x in range(out[-1][1] + 1, c)):
            out[-1][1] = c
        else:
            out.append([c, c])
    print("/* Made by tests/oracle/make_tokens.py marks: marks that " + ("BertNormalizer" if bert else "StripAccents")
          + " of\n * tokenizers 0.23.3 leaves where they are; its table is older than the others. */")
    for i in range(0, len(out), 6):
        print(" ".join("{ 0x%x, 0x%x }," % (a, b) for a, b in out[i:i + 6]))


def make_uni_new():
    assert unicodedata.unidata_version == "14.0.0"
    v = classes()
    new = [unicodedata.category(chr(c)) == "Cn" and v[c] & 31 != 0 for c in range(0x110000)] + [False]
    out, c = [], 0
    while c < 0x110000:
        if new[c]:
            e = c
            while new[e + 1]:
                e += 1
            out.append((c, e))
            c = e
        c += 1
    print("/* Made by tests/oracle/make_tokens.py uni: assigned after Unicode 14.0. */")
    for i in range(0, len(out), 6):
        print(", ".join("{ 0x%x, 0x%x }" % p for p in out[i:i + 6]) + ",")


# --- texts ---

EDGE = ["", " ", "  ", "\n", " \n \n  x", "\t\ta", "a", "Hello, world!", "I'm sure we'll say they'd've DON'T 'S 'Ll", "it\u017f 'ſ x", "  leading and trailing  ",
        "x\u00a0y\u2003z\u3000w\x0b\x1c\x85v", "1 12 123 1234 12345 ½ ² Ⅷ ٣٤٥", "a\r\nb\r\r\nc\n\n\nd", "foo(bar)->baz[0] != NULL; /* ok */", "https://example.org/a/b?c=d#e",
        "e\u0301 é \u0065\u0323\u0301 ｶﾞ ﬁ ﬆ Ⅷ ㍿ \u1100\u1161\u11a8 각", "İstanbul ΑΣ straße ǅ", "日本語のテキスト、漢字かな混じり", "العربية مع أرقام ١٢٣", "हिन्दी देवनागरी",
        "emoji 😀😃🏳️‍🌈👨‍👩‍👧 done", "\u200b\u200d\ufeff\ufffd\u0378", "▁ already ▁▁ marked", "<s>[INST] <b> </s> <unk> <0x41>", "snake_case CamelCaseXMLHttp kebab-case",
        "a" * 300, "ab " * 100, "!!!???...---", "x\u0000y\u0007z", "\U0001F1E6\U0001F1E8 \U00020000\U0002F800", "don\u2019t \u201cquote\u201d \u2014 dash\u2026",
        "<|special|>", "a<|special|>b <|special|> c", "strip  [L]  x  [R]  y", "word wordy words, word", "norm NORM Norm", "tab\tsep\tcols", "ᾳ ᾼ ŉ ǰ", "\u0f73\u0344 \u212b \u2126"]


def random_text(rng):
    ranges = [(0x20, 0x7E), (0x20, 0x7E), (0x9, 0xD), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF),
              (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2150, 0x218F), (0x2460, 0x24FF), (0x3000, 0x30FF), (0x4E00, 0x4FFF), (0xA640, 0xA69F), (0xAC00, 0xAFFF), (0xF900, 0xFB4F), (0xFE00, 0xFFEF),
              (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x20000, 0x2007F)]
    words = ["the", "Don't", "we'll", "It's", " a", "\n", "\n\n", "  ", "\t", "123", "4567", "x1", "é", "<|special|>", "[R]", "[L]", "word", "NORM", "norm", "▁", "'s", "'LL", "...", "日本", "\r\n"]
    out = []
    for _ in range(rng.randint(1, 40)):
        if rng.random() < 0.5:
            out.append(rng.choice(words))
        else:
            lo, hi = rng.choice(ranges)
            out.append("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 4))))
        if rng.random() < 0.3:
            out.append(" ")
    return "".join(c for c in "".join(out) if unicodedata.category(c) != "Cs")


# --- tiny tokenisers ---

ADDED = [AddedToken("<|special|>", special=True, normalized=False), AddedToken("[L]", special=True, lstrip=True, normalized=False),
         AddedToken("[R]", special=False, rstrip=True, normalized=False), AddedToken("word", special=False, single_word=True, normalized=False),
         AddedToken("NORM", special=False, normalized=True)]
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
P, N, D = pre_tokenizers, normalizers, decoders


def byte_level(split, norm=None, **extra):
    t = Tokenizer(models.BPE(**extra))
    t.pre_tokenizer = split
    if norm:
        t.normalizer = norm
    t.decoder = D.ByteLevel()
    return t, trainers.BpeTrainer(vocab_size=900, initial_alphabet=ALPHABET, show_progress=False)


def split_bytes(*patterns):
    return P.Sequence([P.Split(Regex(p), "isolated") for p in patterns] + [P.ByteLevel(add_prefix_space=False, use_regex=False)])


def spm_like():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    t.pre_tokenizer = P.Split("▁", "merged_with_next")  # for training only
    t.decoder = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    return t, trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)], show_progress=False, limit_alphabet=150)


def make(kind):
    if kind == "llama3":
        return byte_level(split_bytes(CL100K % "{1,3}"), ignore_merges=True)
    if kind == "qwen2":
        return byte_level(split_bytes(CL100K % ""), N.NFC())
    if kind == "o200k":
        return byte_level(split_bytes(O200K))
    if kind == "gpt2":
        return byte_level(P.ByteLevel(add_prefix_space=True))
    if kind == "deepseek":
        return byte_level(split_bytes(*DEEPSEEK))
    if kind == "falcon":
        return byte_level(P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(False), P.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))
    if kind == "starcoder":
        return byte_level(P.Sequence([P.Digits(True), P.ByteLevel(add_prefix_space=False)]))
    if kind == "spm":
        return spm_like()
    if kind == "clip":  # end_of_word_suffix
        t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        t.normalizer = N.Sequence([N.NFC(), N.Replace(Regex(r"\s+"), " "), N.Lowercase()])
        t.pre_tokenizer = P.Sequence([P.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True), P.ByteLevel(add_prefix_space=False)])
        t.decoder = D.BPEDecoder("</w>")
        return t, trainers.BpeTrainer(vocab_size=900, initial_alphabet=ALPHABET, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False)
    if kind == "bpe-prefix":  # continuing_subword_prefix, unknowns one by one
        t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
        t.normalizer = N.Sequence([N.NFKD(), N.StripAccents(), N.Strip()])
        t.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.CharDelimiterSplit("-"), P.Punctuation("merged_with_previous")])
        return t, trainers.BpeTrainer(vocab_size=700, continuing_subword_prefix="##", special_tokens=["<unk>"], show_progress=False, limit_alphabet=120)
    if kind == "unigram":
        t = Tokenizer(models.Unigram())
        t.normalizer = N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")])
        t.pre_tokenizer = P.Metaspace(prepend_scheme="first")
        t.decoder = D.Metaspace(prepend_scheme="first")
        return t, trainers.UnigramTrainer(vocab_size=700, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False)
    if kind == "unigram-bytes":
        t = Tokenizer(models.Unigram())
        t.normalizer = N.Nmt()
        t.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.Metaspace()])
        t.decoder = D.Sequence([D.ByteFallback(), D.Metaspace()])
        return t, trainers.UnigramTrainer(vocab_size=900, special_tokens=["<unk>"] + ["<0x%02X>" % i for i in range(256)], unk_token="<unk>", show_progress=False)
    if kind == "bert":
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer = N.BertNormalizer()
        t.pre_tokenizer = P.BertPreTokenizer()
        t.decoder = D.WordPiece()
        return t, trainers.WordPieceTrainer(vocab_size=800, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False, limit_alphabet=200)
    t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    t.pre_tokenizer = P.Whitespace()
    return t, trainers.WordLevelTrainer(vocab_size=500, special_tokens=["[UNK]"], show_progress=False)


KINDS = "llama3 qwen2 o200k gpt2 deepseek falcon starcoder spm clip bpe-prefix unigram unigram-bytes bert wordlevel".split()


def finish(kind, t):
    """Fields that training does not set."""
    v = json.loads(t.to_str())
    if kind == "spm":
        v["pre_tokenizer"] = None
    if kind == "unigram-bytes":
        v["model"]["byte_fallback"] = True
    t = Tokenizer.from_str(json.dumps(v, ensure_ascii=False))
    t.add_tokens([a for a in ADDED if not a.special])
    t.add_special_tokens([a for a in ADDED if a.special])
    return t


def cases(name, t, texts, begins=True):
    for text in texts:
        enc = t.encode(text, add_special_tokens=False)
        case = {"tokenizer": name, "engine": "tokenizers", "text": text, "ids": enc.ids, "decoded": t.decode(enc.ids, skip_special_tokens=False)}
        if begins and unicodedata.normalize("NFC", text) == text:
            case["begin"] = [len(text[:a].encode()) for a, _ in enc.offsets]
        yield case


# Where characters are dropped, composed (NFC) or put in, the library's offsets are those of a neighbour: ids only.
NO_BEGINS = {"clip", "bpe-prefix", "unigram", "unigram-bytes", "bert"}


def dump(rows, f):
    for r in rows:
        f.write(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n")


def make_sample(out, files, real, real_cases):
    rng = random.Random(5)
    corpus = [open(p, encoding="utf-8").read() for p in files] + EDGE * 3
    texts = EDGE + [random_text(rng) for _ in range(60)]
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "cases.jsonl"), "w", encoding="utf-8") as f:
        for kind in KINDS:
            t, trainer = make(kind)
            t.train_from_iterator((line for text in corpus for line in text.splitlines(True)), trainer)
            t = finish(kind, t)
            name = kind + ".json"
            with open(os.path.join(out, name), "w", encoding="utf-8") as g:
                json.dump(json.loads(t.to_str()), g, ensure_ascii=False, separators=(",", ":"))
            dump(cases(name, t, texts, kind not in NO_BEGINS), f)
        for name, path in real:
            t = Tokenizer.from_file(path)
            base = os.path.basename(path)
            dump(({**c, "tokenizer": name + ".json"} for c in map(json.loads, open(real_cases, encoding="utf-8"))
                  if c["tokenizer"] == base and c["kind"] in ("edge", "llamacpp.inp")), f)
            dump(cases(name + ".json", t, [random_text(rng) for _ in range(40)]), f)
            with open(os.path.join(out, name + ".json"), "wb") as g:
                g.write(open(path, "rb").read())
    for name in os.listdir(out):
        if name.endswith(".json") or name == "cases.jsonl":
            subprocess.run(["zstd", "-q", "-f", "-19", "--rm", os.path.join(out, name)], check=True)


def main():
    a = sys.argv[1:]
    if a[:1] == ["uni"]:
        make_uni()
    elif a[:1] in (["marks"], ["marks-bert"]):
        make_marks(a[0] == "marks-bert")
    elif a[:1] == ["uni-new"]:
        make_uni_new()
    elif a[:1] == ["random"]:
        rng = random.Random(int(a[3]))
        t = Tokenizer.from_file(a[1])
        dump(cases(os.path.basename(a[1]), t, (random_text(rng) for _ in range(int(a[2])))), sys.stdout)
    elif a[:1] == ["sample"]:
        files, real, real_cases, i = [], [], None, 2
        while i < len(a):
            if a[i] == "--real":
                real.append(a[i + 1].split("=", 1))
                i += 1
            elif a[i] == "--cases":
                real_cases = a[i + 1]
                i += 1
            else:
                files.append(a[i])
            i += 1
        make_sample(a[1], files, real, real_cases)
    else:
        sys.exit(__doc__)


main()
