#!/usr/bin/env python3
"""Goldens of text/pystr: what str.lower, str.strip, str.split and len answer.

    make_pystr.py OUT_DIR

writes pystr_cases.jsonl.gz (random strings of difficult characters) and pystr_planes.tsv: for every
block of 4,096 code points the sha256 of lower(c), of lower("A" c capital-sigma) and lower(c
capital-sigma), and of "1" or "0" for isspace, each behind the other. Surrogates are left out, and so is whatever this
Python's Unicode does not know (a newer library may)."""

import gzip
import hashlib
import json
import os
import random
import sys
import unicodedata

ALPHABET = ("aAzZ iIkKsS'.:\u00b7\u2019 \u0391\u03a3\u03c3\u03c2\u03a3\u03a3\u0130\u0131\u212a\u212b\u1e9e\u00df\u01c5\u0345\u02b0\u2170\u24b6\u0301\u200d\u00ad"
            "\u4f60\u597d\U0001f600\U0001d400\U00010400 \t\n\r\x0b\x0c\x1c\x1f\x85\u00a0\u1680\u2000\u200a\u200b\u2028\u202f\u205f\u3000\ufeff\u0000")


def known(c):
    return not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn"


def main():
    rng = random.Random(7)
    with gzip.GzipFile(os.path.join(sys.argv[1], "pystr_cases.jsonl.gz"), "wb", 9, mtime=0) as f:
        for _ in range(1500):
            s = "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(0, 24)))
            row = {"s": s, "lower": s.lower(), "strip": s.strip(), "collapse": " ".join(s.split()), "len": len(s)}
            f.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    with open(os.path.join(sys.argv[1], "pystr_planes.tsv"), "w", encoding="utf-8") as f:
        f.write(f"# Python {sys.version.split()[0]}, Unicode {unicodedata.unidata_version}: first code point, known ones, sha256\n")
        for first in range(0, 0x110000, 4096):
            h, n, ranges = hashlib.sha256(), 0, []
            for c in filter(known, range(first, first + 4096)):
                ch = chr(c)
                n += 1
                h.update((ch.lower() + ("A" + ch + "\u03a3").lower() + (ch + "\u03a3").lower() + "01"[ch.isspace()]).encode())
                if ranges and ranges[-1][1] == c - 1:
                    ranges[-1][1] = c
                else:
                    ranges.append([c, c])
            if n:
                spans = ",".join(f"{a:x}-{b:x}" for a, b in ranges)
                f.write(f"{first:x}\t{n}\t{h.hexdigest()}\t{spans}\n")


if __name__ == "__main__":
    main()
