#!/usr/bin/env python3
"""Goldens of ds-audit: what plain Python finds in the same records.

    make_audit.py OUT_DIR DATA_FILE...

writes OUT_DIR/audit_fuzz.jsonl.xz (10,000 seeded rows), audit_goldens.tsv (file, records,
findings, sha256 of the finding list, count by rule) and audit_head.tsv (the list of the first
rows of the fuzz). A finding list is one "line<TAB>rule<TAB>role" a finding, in record order and,
within a record, in the order of the checks. Only the standard library is used."""

import hashlib
import json
import lzma
import os
import random
import sys
import unicodedata

PHRASES = ["as an ai", "i am an ai", "language model"]
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
            "function_call": "assistant", "observation": "tool", "function_response": "tool"}


# --- any shape to role/content ---

class Refused(Exception):
    pass


def text_of(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def join_parts(parts):
    out = []
    for part in parts:
        if not isinstance(part, dict):
            raise Refused("part")
        kind = part.get("type")
        text = next((part[k] for k in ("text", "value", "content", "thinking", "reasoning") if part.get(k) is not None), None)
        if kind in (None, "text", "input_text", "output_text"):
            if not isinstance(text, str):
                raise Refused("part without text")
            out.append(text)
        elif kind not in ("reasoning", "thinking", "tool_call"):
            raise Refused("part type")
    return "".join(out)


def turns(items):
    if not isinstance(items, list):
        raise Refused("not a list")
    first = items[0] if items else {}
    if not all(isinstance(m, dict) for m in items):
        raise Refused("not an object")
    speaks = "role" not in first and "from" in first
    result = []
    for m in items:
        role, content = (m["from"], m["value"]) if speaks else (m["role"], m["content"])
        if speaks:
            role = SPEAKERS.get(role, role)
        if isinstance(content, list):
            content = join_parts(content)
        result.append({"role": role, "content": content})
    return result


def normalise(record):
    """{"conversations": [...]} or an exception for what has no one shape."""
    r = {k: v for k, v in record.items() if v is not None}
    found = []
    for key in ("messages", "conversations"):
        if key in r:
            found.append(("list", key, None))
    for ask, answers in (("instruction", ("output", "response")), ("prompt", ("completion",)), ("question", ("answer",))):
        here = [a for a in answers if a in r]
        if ask in r and len(here) > 1:
            raise Refused("two answers")
        if ask in r and here:
            found.append(("pair", ask, here[0]))
    if "text" in r:
        found.append(("text", "text", None))
    if len(found) > 1:
        raise Refused("two shapes")
    if not found:
        for ask in ("instruction", "prompt", "question"):
            here = [a for a in ("output", "response", "completion", "answer") if a in r]
            if ask in r and len(here) == 1:
                found.append(("pair", ask, here[0]))
    if len(found) != 1:
        raise Refused("no one shape")
    kind, ask, answer = found[0]
    if kind == "list":
        return {"conversations": turns(r[ask])}
    if not isinstance(r[ask], str):
        raise Refused("not a string")
    if kind == "text":
        return {"conversations": [{"role": "assistant", "content": r[ask]}]}
    user = r[ask]
    extra = text_of(r["input"]) if ask == "instruction" and "input" in r else ""
    if extra:
        user += "\n\n" + extra
    out = [{"role": "user", "content": user}, {"role": "assistant", "content": text_of(r[answer])}]
    if "system" in r and not isinstance(r["system"], str):
        raise Refused("system")
    if r.get("system"):
        out.insert(0, {"role": "system", "content": r["system"]})
    return {"conversations": out}


# --- the five checks ---

def audit(example, min_turns=2, low=50, high=8000):
    chat = example["conversations"]
    found = []
    if len(chat) < min_turns:
        found.append(("few-turns", ""))
    for msg in [c for c in chat if c["role"] == "assistant"]:
        if len(msg["content"]) < low:
            found.append(("short-response", msg["role"]))
        if len(msg["content"]) > high:
            found.append(("long-response", msg["role"]))
    for c in chat:
        if not c["content"].strip():
            found.append(("empty-message", c["role"]))
    roles = [c["role"] for c in chat if c["role"] != "system"]
    for before, role in zip(roles, roles[1:]):
        if before == role:
            found.append(("consecutive-role", role))
    for c in chat:
        lowered = c["content"].lower()
        if any(p in lowered for p in PHRASES):
            found.append(("identity-leak", c["role"]))
    return found


def findings(rows, **limits):
    for line, record in rows:
        try:
            for rule, role in audit(normalise(record), **limits):
                yield line, rule, role
        except Exception:  # whatever stops the checks makes the record malformed
            yield line, "malformed", ""


def read(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if text.lstrip().startswith("["):
        return list(enumerate(json.loads(text), 1))
    return [(i, json.loads(s)) for i, s in enumerate(text.split("\n"), 1) if s.strip()]


# --- the fuzz ---

SPACES = [" ", "\t", "\n", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "\u200b", "\ufeff", "\u2007"]
BITS = ["as an AI", "I am an ai", "Language Model", "LANGUAGE MODEL", "as an a\u0130", "as  an ai", "as an a\u0131", "language\nmodel",
        "I AM AN AI\u03a3", "\u03a3", "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3", "\U0001f600", "e\u0301", "\u4f60\u597d", "a\u0000b", "\u212a",
        "language \u039cODEL", "x" * 48, "y" * 49, "\u00e9" * 50, "\U0001f680" * 49, "z" * 51, "plain words", "Stra\u00dfe", "\"quoted\" \\ back"]
ROLES = ["user", "assistant", "user", "assistant", "user", "assistant", "system", "tool", "Assistant", "user ", "", "r\u00f4le"]


def fuzz_text(rng):
    kind = rng.random()
    if kind < 0.06:
        return "".join(rng.choice(SPACES) for _ in range(rng.randrange(0, 4)))
    if kind < 0.09:
        return rng.choice("a\u00e9\u4f60\U0001f600") * rng.choice([7998, 7999, 8000, 8001, 8002])
    if kind < 0.25:
        return rng.choice("b\u00e8\u597d\U0001f680") * rng.randrange(47, 54)
    return rng.choice(["", " ", "- "]).join(rng.choice(BITS) for _ in range(rng.randrange(1, 5)))


def fuzz_content(rng):
    kind = rng.random()
    if kind < 0.965:
        return fuzz_text(rng)
    if kind < 0.98:
        return [{"type": "text", rng.choice(["text", "value"]): fuzz_text(rng)} for _ in range(rng.randrange(0, 3))]
    return rng.choice([None, 7, True, {"text": "x"}, ["bare"], [{"type": "image", "url": "x"}], 1e3])


def fuzz_message(rng, names, turn):
    role = rng.choice(ROLES) if rng.random() < 0.15 else ("user", "assistant")[turn % 2]
    if names[0] == "from" and rng.random() < 0.9:
        role = rng.choice(["human", "gpt", "function_call", "observation", "system"])
    m = {names[0]: role, names[1]: fuzz_content(rng)}
    if rng.random() < 0.004:
        del m[rng.choice(names)]
    return m


def fuzz_record(rng):
    shape = rng.random()
    if shape < 0.82:
        key = "conversations" if shape < 0.5 else "messages"
        names = ("from", "value") if 0.35 < shape < 0.5 else ("role", "content")
        r = {key: [fuzz_message(rng, names, t) for t in range(rng.choice([0, 1, 2, 2, 2, 3, 4, 5]))]}
    elif shape < 0.96:
        ask, answer = rng.choice([("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("question", "answer"),
                                  ("prompt", "answer")])
        r = {ask: fuzz_text(rng), answer: rng.choice([fuzz_text(rng), fuzz_text(rng), {"a": [1, "b"]}, 12])}
        if ask == "instruction":
            r["input"] = rng.choice(["", None, "more", fuzz_text(rng)])
        if rng.random() < 0.3:
            r["system"] = rng.choice(["", "be brief", fuzz_text(rng)])
    elif shape < 0.98:
        r = {"text": fuzz_text(rng)}
    else:
        r = rng.choice([{}, {"messages": "no list"}, {"conversations": {"role": "user"}}, {"prompt": "alone"}, {"text": "a", "messages": []},
                        {"instruction": "a", "output": "b", "response": "c"}, {"messages": ["x"]}, {"messages": None}, {"text": 5}])
    if rng.random() < 0.2:
        r["id"] = rng.randrange(10**20)
    return r


def main():
    out, files = sys.argv[1], sys.argv[2:]
    rng = random.Random(20240607)
    rows = [(i + 1, fuzz_record(rng)) for i in range(10000)]
    text = "".join(json.dumps(r, ensure_ascii=i % 3 == 0) + "\n" for i, (_, r) in enumerate(rows))
    with open(os.path.join(out, "audit_fuzz.jsonl.xz"), "wb") as f:
        f.write(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    with open(os.path.join(out, "audit_goldens.tsv"), "w", encoding="utf-8") as f:
        f.write(f"# Python {sys.version.split()[0]}, Unicode {unicodedata.unidata_version}: file, records, findings, sha256, by rule\n")
        for name, data in [("audit_fuzz.jsonl", rows)] + [(os.path.basename(p), read(p)) for p in files]:
            found = list(findings(data))
            listing = "".join(f"{line}\t{rule}\t{role}\n" for line, rule, role in found)
            rules = sorted({rule for _, rule, _ in found})
            counts = ",".join(f"{r}={sum(x[1] == r for x in found)}" for r in rules)
            f.write(f"{name}\t{len(data)}\t{len(found)}\t{hashlib.sha256(listing.encode()).hexdigest()}\t{counts}\n")
    with open(os.path.join(out, "audit_head.tsv"), "w", encoding="utf-8", newline="\n") as f:
        f.writelines(f"{line}\t{rule}\t{role}\n" for line, rule, role in findings(rows[:400]))


if __name__ == "__main__":
    main()
