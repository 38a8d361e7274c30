#!/usr/bin/env python3
"""Makes tests/conformance/templates: a sample of the full set, and cases of our own
for corners of the language that no published template touches.

Usage: make_templates.py sample CONFORMANCE_DIR OUT_DIR   (licensed templates only)
       make_templates.py corners OUT_DIR                  (transformers renders tests/oracle/template_corners.txt)
       make_templates.py run CASES.jsonl TEMPLATES_DIR    (renders the inputs again, prints differences)
Written with transformers 5.23 and jinja2 3.1.6; each case file's first line of its README states the versions.
"""
import datetime
import gzip
import json
import os
import re
import sys

PERMISSIVE = re.compile(r"^(trl|axolotl)__")  # Apache-2.0 repositories
KEEP_CASES = {
    "basic_gen", "sys_multi", "unicode", "html_json", "content_null", "content_parts", "think_inline_last",
    "reasoning_content", "tool_call_dict", "tool_call_parallel", "empty_messages", "unknown_role",
}


def environment(now):
    from transformers.utils import chat_template_utils as u

    def compile_(text):
        t = u._compile_jinja_template.__wrapped__(text) if hasattr(u._compile_jinja_template, "__wrapped__") else u._compile_jinja_template(text)
        t.environment.globals["strftime_now"] = lambda f: now.strftime(f)
        t.globals["strftime_now"] = lambda f: now.strftime(f)
        return t

    return compile_


def render(compiled, values):
    """Output or error, with the spans of generation blocks, as transformers gets them."""
    blocks, spans = [], []
    with compiled.environment.activate_tracker(blocks, spans):
        for block in compiled.generate(**values):
            blocks.append(block)
    return "".join(blocks), spans


def case(text, name, title, values, now="2026-01-15T09:05:07"):
    row = {"template": name, "case": title, "input": dict(values, now=now)}
    try:
        compiled = environment(datetime.datetime.fromisoformat(now))(text)
    except Exception as e:
        row["case"] = "__compile__"
        row["error"] = {"type": type(e).__name__, "message": str(e)[:200]}
        return row
    try:
        out, spans = render(compiled, values)
        out.encode()
        row["output"] = out
        if spans:
            row["generation"] = spans
    except Exception as e:
        row["error"] = {"type": type(e).__name__, "message": str(e)[:200]}
    return row


def write_cases(path, rows):
    data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as f:
        f.write(data)
    print(path, len(rows), "cases,", os.path.getsize(path), "bytes")


def sample(src, out):
    os.makedirs(os.path.join(out, "templates"), exist_ok=True)
    rows = []
    for line in open(os.path.join(src, "template_cases.jsonl"), encoding="utf-8"):
        r = json.loads(line)
        if PERMISSIVE.match(r["template"]) and r["case"] in KEEP_CASES:
            rows.append(r)
    for name in sorted({r["template"] for r in rows}):
        text = open(os.path.join(src, "templates", name), "rb").read()
        open(os.path.join(out, "templates", name), "wb").write(text)
    return rows


def corners(path):
    """Blocks "=== NAME" / template text; an optional first line "vars: JSON"."""
    values = json.load(open(os.path.join(os.path.dirname(path), "template_corners.json"), encoding="utf-8"))
    for part in re.split(r"^=== ", open(path, encoding="utf-8", newline="").read(), flags=re.M)[1:]:
        name, text = part.split("\n", 1)
        yield name.strip(), text[:-1] if text.endswith("\n") else text, values


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.argv[1] == "run":
        bad = 0
        for line in open(sys.argv[2], encoding="utf-8"):
            r = json.loads(line)
            text = open(os.path.join(sys.argv[3], r["template"]), encoding="utf-8", newline="").read()
            values = dict(r["input"])
            again = case(text, r["template"], r["case"], values, values.pop("now"))
            if again.get("output") != r.get("output") or ("error" in again) != ("error" in r):
                bad += 1
                print(r["template"], r["case"], json.dumps(again)[:300])
        print(bad, "differ")
        return
    out = sys.argv[-1]
    rows = sample(sys.argv[2], out) if sys.argv[1] == "sample" else []
    corner_dir = os.path.join(out, "corners", "templates")
    os.makedirs(corner_dir, exist_ok=True)
    mine = []
    for name, text, values in corners(os.path.join(here, "template_corners.txt")):
        open(os.path.join(corner_dir, name + ".jinja"), "w", encoding="utf-8", newline="").write(text)
        mine.append(case(text, name + ".jinja", "corner", values))
    write_cases(os.path.join(out, "corners", "template_cases.jsonl.gz"), mine)
    if rows:
        write_cases(os.path.join(out, "template_cases.jsonl.gz"), rows)


if __name__ == "__main__":
    main()
