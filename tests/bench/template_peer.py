#!/usr/bin/env python3
"""usage: template_peer.py minijinja|jinja2 TEMPLATE CONVERSATIONS.jsonl OURS.jsonl

Renders the conversations with a reference engine, rendering alone (they are parsed
before the clock starts). Prints conversations/s of processor time, and how
many texts differ from those of OURS."""
import json
import sys
import time


def engine(name, source):
    more = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "add_generation_prompt": False}
    if name == "minijinja":
        import minijinja
        env = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
        env.add_template("t", source)
        return lambda m: env.render_template("t", messages=m, **more)
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    return lambda m: template.render(messages=m, **more)


def main():
    name, template, path, ours = sys.argv[1:]
    conversations = [json.loads(line)["messages"] for line in open(path, encoding="utf-8")]
    texts = [json.loads(line)["text"] for line in open(ours, encoding="utf-8")]
    render = engine(name, open(template, encoding="utf-8").read())
    start = time.process_time()
    theirs = [render(m) for m in conversations]
    took = time.process_time() - start
    print("%.1f %d" % (len(conversations) / took / 1000, sum(a != b for a, b in zip(theirs, texts)) + abs(len(theirs) - len(texts))))


main()
