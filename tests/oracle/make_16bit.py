#!/usr/bin/env python3
"""Makes tests/conformance/model/bf16.json and fp16.json: how far PyTorch + PEFT in 16 bits (weights, adapter and activations)
lie from the fp64 goldens of make_model.py, per family: what a 16-bit device of ours is measured against. fp16's loss is
scaled, by SCALE; the test does the same.

usage: make_16bit.py tests/conformance/model

nll: the largest error of a token's loss; loss: of the mean; grad: relative L2 of all LoRA gradients together,
grad_worst: of the worst tensor."""
import json, os, sys

import peft
import torch
import transformers
from safetensors.torch import load_file

torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
SCALE = {torch.bfloat16: 1, torch.float16: 4096}


def measure(path, dtype):
    gold = load_file(os.path.join(path, "golden.safetensors"))
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    model = peft.PeftModel.from_pretrained(model, os.path.join(path, "adapter"), is_trainable=True).to(dtype)
    ids, mask, start = gold["input_ids"].long(), gold["loss_mask"].bool(), gold["seq_start"].tolist()
    want, nlls, where = gold["nll"], [], []
    for a, z in zip(start, start[1:]):
        logits = model(ids[a:z][None]).logits[0].float()
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[a + 1:z], reduction="none")
        keep = mask[a + 1:z]
        nlls.append(nll[keep])
        where += [a + 1 + i for i in range(z - a - 1) if keep[i]]
    nll = torch.cat(nlls)
    (nll.mean() * SCALE[dtype]).backward()
    truth = want[torch.tensor(where)].double()
    off = size = worst = 0.0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        g = gold["grad." + name.replace("base_model.model.", "").replace(".default", "")].double()
        d = (p.grad.double() / SCALE[dtype] - g).pow(2).sum().item()
        off, size = off + d, size + g.pow(2).sum().item()
        worst = max(worst, (d / g.pow(2).sum().item()) ** 0.5)
    return {"nll": (nll.detach().double() - truth).abs().max().item(), "loss": abs(nll.detach().double().mean().item() - truth.mean().item()),
            "grad": (off / size) ** 0.5, "grad_worst": worst}


def main():
    root = sys.argv[1]
    for kind, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        out = {"versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)}}
        for name in ("llama", "llama3", "qwen2", "mistral"):
            out[name] = measure(os.path.join(root, name), dtype)
        with open(os.path.join(root, kind + ".json"), "w") as f:
            json.dump(out, f, indent=1)
            f.write("\n")
        print(kind, json.dumps(out, indent=1))


main()
