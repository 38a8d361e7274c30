#!/usr/bin/env python3
"""Makes the goldens of ROUGE and of the stemmer with rouge_score and NLTK.

Usage: make_rouge.py DATA_DIR OUT_DIR

DATA_DIR holds the data sets named below (permissive licences only, see
tests/MANIFEST.tsv). Writes OUT_DIR/rouge_pairs.jsonl.gz, records
{"ref","cand","rouge1":[p,r,f],"rouge2":...,"rougeL":...,"em":bool}, the first of
them naming the versions, and OUT_DIR/porter_words.txt.gz, "word stem" lines.
"em" is SQuAD's normalised exact match where both texts are ASCII.
"""
import gzip
import importlib.metadata as md
import json
import random
import re
import string
import sys
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer


def load(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(l) for l in text.split("\n") if l.strip()]


def texts(data):
    """(reference, other text) pairs of real records."""
    for r in load(data / "data/qa_gsm8k_train.jsonl"):
        yield r["answer"], r["question"]
    for r in load(data / "data/alpaca_rasbt.json"):
        yield r["output"], r["instruction"] + " " + r["input"]
    for r in load(data / "data/code_instruction_response.json"):
        yield r["response"], r["instruction"]
    for r in load(data / "data/roleplay_instruction_response.json"):
        yield r["response"], r["instruction"]
    for r in load(data / "data/dpo_prompt_chosen_rejected.jsonl"):
        yield r["chosen"], r["rejected"]
    for r in load(data / "eval/ifeval_gpt4_responses.jsonl"):
        yield r["response"], r["prompt"]


def mutate(rng, text):
    """What a model that half remembers might write."""
    words = text.split(" ")
    out = []
    for w in words:
        x = rng.random()
        if x < 0.08:
            continue
        if x < 0.14:
            w = rng.choice(words)
        elif x < 0.18:
            w = w.upper()
        elif x < 0.21:
            w = w + rng.choice(["s", "ing", "ed", "ly", "ness", "ational", "é", "'s"])
        out.append(w)
    if rng.random() < 0.3:
        k = rng.randrange(len(out) + 1)
        out = out[k:] + out[:k]
    return " ".join(out)


HARD = [
    ("", ""), ("", "a"), ("a", ""), ("   ", "..."), ("a", "a"), ("a b", "b a"), ("the", "The THE the"),
    ("\u0130stanbul \u0130", "istanbul i"), ("273 \u212a kelvin", "273 k Kelvin"), ("\u212a\u212a", "kk"), ("x\u0130y", "xi y"),
    ("caf\u00e9 na\u00efve", "cafe naive"), ("\u4f60\u597d world", "world \u4f60\u597d"), ("\U0001f600 ok\U0001f600fine", "ok fine"),
    ("na\u0308ive A\u030angstrom", "na ive a ngstrom"), ("\u00df STRASSE", "ss strasse"), ("\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 abc", "ABC"),
    ("tab\tnew\nline\rform\fx\x0by\x1cz\x85q", "tab new line form x y z q"), ("nul\x00inside", "nul inside"),
    ("don't can't won't", "don t can t won t"), ("3.14 1,000", "3 14 1 000"), ("snake_case-kebab", "snake case kebab"),
    ("a a a a a", "a a"), ("a a", "a a a a a"), ("a b a b a b", "b a b a"), ("dying lying tying skies news howe", "die lie tie sky new how"),
    ("die lie tie", "dying lying tying"), ("yyyy yyyyyyyy", "yyyi yyyyyyyi"), ("9999ing 12ed abc123s", "9999 12 abc123"),
]


def pairs(data):
    rng = random.Random(7)
    real = [p for p in texts(data) if p[0]]
    rng.shuffle(real)
    yield from HARD
    for ref, other in real[:420]:
        yield ref[:rng.choice([90, 160, 400])], other[:rng.choice([90, 160, 400])]
    for ref, _ in real[420:1000]:
        ref = ref[:rng.choice([60, 160, 300, 500])]
        yield ref, mutate(rng, ref)
    long = " ".join(r for r, _ in real[1000:1040])
    for n in (60, 63, 64, 65, 127, 128, 129, 191, 300, 1000, 3000):
        w = long.split()[:n]
        yield " ".join(w), mutate(rng, " ".join(w))
    yield "spam " * 700, "spam eggs " * 500
    for alphabet in ("ab", "abc", "ab\u00e9 ", "xyz01 \u212a\u0130"):
        for n in (1, 7, 64, 65, 200):
            yield (" ".join(rng.choice(alphabet) for _ in range(n)), " ".join(rng.choice(alphabet) for _ in range(n + 3)))


def squad(s):
    s = "".join(c for c in s.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())


def words(data):
    rng = random.Random(11)
    seen = set(re.findall(r"[a-z0-9]{4,}", " ".join(a + " " + b for a, b in texts(data)).lower()))
    some = sorted(seen)
    rng.shuffle(some)
    some = set(some[:9000])
    ends = ("s es ies sses ss ed eed ied ing y ly ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness "
            "fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement "
            "ment ent ion sion tion ou ism ate iti ous ive ize e ll le ationalli").split()
    stems = "a b y at bl iz hop fall fil x tr oat troubl toy syz yy say abc geo theo archaeo 9 a1 b2c creat gener relat fizz hiss ow box dry".split()
    some |= {s + t + e for s in stems for t in ("", "at", "ing", "y", "al") for e in ends}
    some |= {"sky", "skies", "dying", "lying", "tying", "news", "innings", "inning", "outings", "outing", "cannings", "canning",
             "howe", "proceed", "exceed", "succeed", "yyyy", "yyyyy", "yyyyyy", "aaaa", "bbbb", "sing", "bled", "ying", "aing", "oing"}
    return sorted(w for w in some if 4 <= len(w) <= 40)


def dump(path, lines):
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as f:
        for l in lines:
            f.write((l + "\n").encode("utf-8"))


def main():
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    lines = [json.dumps({"versions": {p: md.version(p) for p in ("rouge-score", "nltk")}})]
    for ref, cand in pairs(data):
        s = scorer.score(ref, cand)
        r = {"ref": ref, "cand": cand}
        r.update({k: [s[k].precision, s[k].recall, s[k].fmeasure] for k in s})
        if ref.isascii() and cand.isascii():
            r["em"] = squad(ref) == squad(cand)
        lines.append(json.dumps(r, ensure_ascii=False))
    dump(out / "rouge_pairs.jsonl.gz", lines)
    stem = PorterStemmer().stem
    dump(out / "porter_words.txt.gz", [f"{w} {stem(w)}" for w in words(data)])
    print(len(lines) - 1, "pairs", file=sys.stderr)


if __name__ == "__main__":
    main()
