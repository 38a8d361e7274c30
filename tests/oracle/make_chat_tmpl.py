#!/usr/bin/env python3
"""Goldens of tests/unit/test_chat_tmpl.c: conversations through transformers' apply_chat_template
with the demo model's template and with templates of the conformance sample.
Usage: make_chat_tmpl.py MODEL_DIR TEMPLATES_DIR OUT   (transformers 5.23, jinja2 3.1.6)"""
import json
import os
import sys

from transformers import AutoTokenizer

CHATS = [
    [{"role": "user", "content": "Once upon a time"}, {"role": "assistant", "content": "there was a bird."}],
    [{"role": "system", "content": "Tell it well."}, {"role": "user", "content": "A cat"}, {"role": "assistant", "content": "sat."},
     {"role": "user", "content": "And?"}, {"role": "assistant", "content": "It slept, café 日本 \U0001F600."}],
    [{"role": "user", "content": "  spaces \n"}, {"role": "assistant", "content": " kept \n\n"}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nbecause"}, {"role": "user", "content": "q2"},
     {"role": "assistant", "content": "a2", "reasoning": "hm"}],
    [{"role": "user", "content": "only a prompt"}],
]
TEMPLATES = [None, "trl__llama3.jinja", "axolotl__chatml.jinja", "axolotl__gemma.jinja", "axolotl__mistral_v1.jinja", "trl__phi3.jinja",
             "axolotl__qwen3.jinja", "trl__qwen2_5_training.jinja", "axolotl__phi_4.jinja"]


def main():
    tok = AutoTokenizer.from_pretrained(sys.argv[1])
    with open(sys.argv[3], "w", encoding="utf-8") as out:
        for name in TEMPLATES:
            text = open(os.path.join(sys.argv[2], name), encoding="utf-8", newline="").read() if name else None
            for chat in CHATS:
                for mode in ("plain", "prompt", "continue"):
                    row = {"template": name, "mode": mode, "messages": chat}
                    kw = {"add_generation_prompt": mode == "prompt", "continue_final_message": mode == "continue"}
                    if text:
                        kw["chat_template"] = text
                    try:
                        row["output"] = tok.apply_chat_template(chat, tokenize=False, **kw)
                    except Exception as e:
                        row["error"] = type(e).__name__
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")


main()
