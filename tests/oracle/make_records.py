#!/usr/bin/env python3
"""Goldens of the normalising of records.

    make_records.py OUT_FILE DATA_FILE...

One line a file: name, kind (chat or preference), records read, records refused, sha256 of the
messages. Chat: every message as role US content RS, a newline behind each record. Preference:
prompt, chosen and rejected so, GS between them (with a label: prompt, answer, 1 or 0). Only the
standard library is used."""

import hashlib
import os
import re
import sys

from make_audit import Refused, normalise, read, turns


def show(messages):
    return "".join(m["role"] + "\x1f" + m["content"] + "\x1e" for m in messages)


def transcript(text):
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    if pieces[0] or len(pieces) < 3:
        return None
    role = {"Human": "user", "Assistant": "assistant"}
    return [{"role": role[r], "content": t[1:] if t.startswith(" ") else t} for r, t in zip(pieces[1::2], pieces[2::2])]


def answer(value):
    if isinstance(value, str):
        return transcript(value) or [{"role": "assistant", "content": value}]
    return turns(value if isinstance(value, list) else [value])


def preference(r):
    if isinstance(r.get("label"), bool):
        chat = normalise(r)["conversations"]
        if len(chat) < 2 or chat[-1]["role"] != "assistant":
            raise Refused("no answer at the end")
        return show(chat[:-1]) + "\x1d" + show(chat[-1:]) + "\x1d" + str(int(r["label"]))
    chosen, rejected = answer(r["chosen"]), answer(r["rejected"])
    if "conversations" in r:
        prompt = turns(r["conversations"])
    elif "prompt" in r:
        prompt = [{"role": "user", "content": r["prompt"]}]
    else:
        if chosen == rejected:
            raise Refused("the same")
        k = 0
        while k < min(len(chosen), len(rejected)) and chosen[k] == rejected[k]:
            k += 1
        while k and not (k < min(len(chosen), len(rejected)) and chosen[k]["role"] == rejected[k]["role"] == "assistant"):
            k -= 1
        if not k:
            raise Refused("no common start")
        prompt, chosen, rejected = chosen[:k], chosen[k:], rejected[k:]
    return show(prompt) + "\x1d" + show(chosen) + "\x1d" + show(rejected)


def main():
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write(f"# Python {sys.version.split()[0]}: file, kind, read, refused, sha256\n")
        for path in sys.argv[2:]:
            rows = [r for _, r in read(path)]
            pref = "chosen" in rows[0] or isinstance(rows[0].get("label"), bool)
            digest, good = hashlib.sha256(), 0
            for r in rows:
                try:
                    line = preference(r) if pref else show(normalise(r)["conversations"])
                except Exception:
                    continue
                good += 1
                digest.update((line + "\n").encode())
            f.write(f"{os.path.basename(path)}\t{'preference' if pref else 'chat'}\t{good}\t{len(rows) - good}\t{digest.hexdigest()}\n")


if __name__ == "__main__":
    main()
