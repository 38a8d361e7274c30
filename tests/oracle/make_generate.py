#!/usr/bin/env python3
"""Makes generate.jsonl: greedy continuations by transformers, fp32, with the
gap between the two best logits at each step, so that a test knows where
another correct program may part ways.

usage: make_generate.py MODEL_DIR OUT_FILE"""
import json, sys

import torch
import transformers
from tokenizers import Tokenizer

PROMPTS = ["Once upon a time", "Once upon a time, there was a little girl named Lily.", "Tom and Sue went to the park.",
           "The big red dog", "One day, a boy found a box.", "\"Hello,\" said the cat.", "It was raining and Ben was sad because",
           "A", "Mom said no. Tim", "The end of the story was happy. Then the next day, the children all went outside to play in the sun and"]
NEW = 64


def main():
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="eager", dtype=torch.float32).eval()
    tok = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    with open(sys.argv[2], "w") as f:
        f.write(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "max_new": NEW}) + "\n")
        for p in PROMPTS:
            ids = [1] + tok.encode(p, add_special_tokens=False).ids
            new, gaps = [], []
            with torch.no_grad():
                while len(new) < NEW:
                    top = model(torch.tensor([ids + new])).logits[0, -1].topk(2)
                    new.append(top.indices[0].item())
                    gaps.append(round((top.values[0] - top.values[1]).item(), 5))
                    if new[-1] in ends:
                        break
            # by the library's own loop and cache
            gen = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                                 max_new_tokens=NEW, pad_token_id=0)[0, len(ids):].tolist()
            assert gen == new or min(gaps) < 1e-3, (gen, new)
            stop = new[-1] in ends
            text = tok.decode(new[:-1] if stop else new)
            f.write(json.dumps({"prompt": p, "prompt_ids": ids, "ids": new, "gaps": gaps, "finish": "stop" if stop else "length",
                                "text": text}) + "\n")


if __name__ == "__main__":
    main()
