#!/usr/bin/env python3
"""Makes targets.json: which projections of four layers PEFT adapts for target_modules and layers_to_transform.

usage: make_targets.py OUT_FILE

A text that is no list of names goes to PEFT as a string, a regular expression."""
import json, re, sys

import peft
import torch

NAMES = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
CASES = [("q_proj,v_proj", None), ("all", None), ("down_proj", "0"), ("q_proj,o_proj", "1-2"), ("all", "0,2-3"), ("k_proj", "3,1,1"),
         (r".*\.(q|v)_proj", None), (r"model\.layers\.[12]\.mlp\..*", None), (r"model\.layers\.(0|3)\.self_attn\.(q|k)_proj|.*\.2\.mlp\.up_proj", None),
         (r".*proj", None), (r"(?:.*)\.0\..*_proj", None), (r".*(?<!gate)_proj", None), (r"layers|.*q_proj", None)]


def tree():
    model = torch.nn.Module()
    model.model = torch.nn.Module()
    model.model.layers = torch.nn.ModuleList()
    for _ in range(4):
        layer = torch.nn.Module()
        for part, names in zip(("self_attn", "mlp"), NAMES):
            m = torch.nn.Module()
            for name in names:
                m.add_module(name, torch.nn.Linear(2, 2, bias=False))
            layer.add_module(part, m)
        model.model.layers.append(layer)
    return model


def numbers(layers):
    out = []
    for part in layers.split(","):
        a, _, b = part.partition("-")
        out += range(int(a), int(b or a) + 1)
    return out


def main():
    cases = []
    for text, layers in CASES:
        names = [n for part in NAMES for n in part] if text == "all" else text.split(",") if re.fullmatch(r"[\w,]+", text) else text
        m = peft.get_peft_model(tree(), peft.LoraConfig(r=1, target_modules=names, layers_to_transform=numbers(layers) if layers else None))
        found = sorted(n.replace("base_model.model.", "").replace(".lora_A.default.weight", "") for n, _ in m.named_parameters() if "lora_A" in n)
        cases.append({"targets": text, "layers": layers, "modules": found})
    with open(sys.argv[1], "w") as f:
        f.write('{"peft": "%s", "cases": [\n' % peft.__version__)
        f.write(",\n".join(json.dumps(c) for c in cases))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
