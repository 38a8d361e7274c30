#!/usr/bin/env python3
"""usage: check_tokens.py BIN WORK [N] [FILE...]   (part of make check-peers)

Random text, of every plane of Unicode and of the characters that patterns,
normalisers and added tokens treat apart, through tokenize and through the
reference libraries: Hugging Face tokenizers for tokenizer.json, SentencePiece
for its models. Ids must be equal. One line a file; exits 1 when any differ.
FILE: more tokenizers than those of tests/conformance/tokens."""
import glob, json, os, random, subprocess, sys
from itertools import groupby

import sentencepiece
import tokenizers

BIN, WORK = sys.argv[1:3]
N = int(sys.argv[3]) if len(sys.argv) > 3 else 3000
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SPECIAL = list(" \n\r\t'’\"._-/\\#@|<>[](){}0123456789abcXYZéÉßıİſKΩ") + [
    "  ", "\n\n", "\r\n", "'s", "'LL", "'re", "\u00a0", "\u0085", "\u1680", "\u2028", "\u3000", "\u200b", "\u200c", "\u200d", "\ufeff", "\u0301", "\u0345", "\u093f", "\u0e33",
    "▁", "Ġ", "中文", "日本", "한국", "\u1112\u1161\u11ab", "٣", "½", "Ⅷ", "²", "ﬁ", "Å", "\U0001d400", "😀", "👩‍👩‍👧", "🏳️‍🌈", "\ue000", "\U000f0000", "the", "The", "ing", "self", "return",
    "https://", "==", "//", "0x1F", "1234567", "3.14"]
random.seed(20)


def character():
    while True:
        c = random.choice((random.randrange(0x20, 0x7f), random.randrange(0x80, 0x800), random.randrange(0x800, 0x10000), random.randrange(0x10000, 0x110000)))
        if not 0xd800 <= c < 0xe000:
            return chr(c)


def text(added):
    out = []
    for _ in range(random.randrange(1, 30)):
        r = random.random()
        piece = random.choice(SPECIAL) if r < 0.7 else random.choice(added) if added and r < 0.78 else character()
        out.append(piece * (random.randrange(2, 40) if random.random() < 0.06 else 1))
    return "".join(out)


def ours(path, texts):
    data = os.path.join(WORK, "random.jsonl")
    with open(data, "w", encoding="utf-8") as f:
        for t in texts:
            f.write(json.dumps({"text": t}, ensure_ascii=random.random() < 0.2) + "\n")
    got = {}
    for threads in ("1", "3"):
        p = subprocess.run([os.path.join(BIN, "tokenize"), "--no-cache", "--allow-double-bos", "--allow-masked", "-j", threads, "--model", path, "--show-mask", data],
                           capture_output=True, text=True)
        if p.returncode:
            raise SystemExit(f"{path}: {p.stderr}")
        rows = (json.loads(line) for line in p.stdout.split("\n") if line)
        got[threads] = {k: [r["id"] for r in g] for k, g in groupby(rows, key=lambda r: r["record"])}
    return got["1"] if got["1"] == got["3"] else None


def check(path, name, encode, added):
    texts = [t for t in (text(added) for _ in range(N)) if encode(t)]  # what leaves no token is no record
    got = ours(path, texts)
    bad = [i for i, t in enumerate(texts) if got is None or got.get(i) != encode(t)]
    print(f"  {'FAIL' if bad else 'ok  '} {name}: {len(texts) - len(bad)} of {len(texts)} random texts equal")
    for i in bad[:3]:
        print(f"       {texts[i]!r}\n       ours {got.get(i) if got else 'differs by threads'}\n       want {encode(texts[i])}")
    return not bad


def main():
    ok = True
    os.makedirs(WORK, exist_ok=True)
    files = sorted(glob.glob(os.path.join(ROOT, "tests/conformance/tokens/*.zst"))) + sys.argv[4:]
    for packed in files:
        path = packed
        name = os.path.basename(packed).removesuffix(".zst")
        if packed.endswith(".zst"):
            if not name.endswith((".json", ".model")):
                continue
            path = os.path.join(WORK, name)
            with open(path, "wb") as f:
                f.write(subprocess.run(["zstd", "-dqc", packed], check=True, capture_output=True).stdout)
        if name.endswith(".json"):
            try:
                t = tokenizers.Tokenizer.from_file(path)
            except Exception:
                continue  # tekken.json and what the reference refuses
            added = [a.content for a in t.get_added_tokens_decoder().values() if a.content]
            ok &= check(path, name, lambda s: t.encode(s, add_special_tokens=False).ids, added[:40])
        elif name.endswith(".model"):
            s = sentencepiece.SentencePieceProcessor(model_file=path)
            ok &= check(path, name, lambda x: s.encode(x), [])
    return 0 if ok else 1


sys.exit(main())
