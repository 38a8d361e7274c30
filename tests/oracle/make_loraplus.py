#!/usr/bin/env python3
"""Makes loraplus.safetensors: AdamW in the parameter groups that PEFT's
create_loraplus_optimizer makes, step by step, with given gradients.

usage: make_loraplus.py OUT_FILE

One layer, hidden 24, 3 heads of 8, 1 of keys and values, ffn 40, r 4, all seven projections."""
import sys

import peft
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file

STEPS, RATES, RATIO, DECAY = 4, [1e-3, 3e-3, 2e-3, 5e-4], 16.0, 0.05
SHAPES = {"self_attn": {"q_proj": (24, 24), "k_proj": (24, 8), "v_proj": (24, 8), "o_proj": (24, 24)},
          "mlp": {"gate_proj": (24, 40), "up_proj": (24, 40), "down_proj": (40, 24)}}


def tree():
    layer = torch.nn.Module()
    for part, linears in SHAPES.items():
        m = torch.nn.Module()
        for name, (n_in, n_out) in linears.items():
            m.add_module(name, torch.nn.Linear(n_in, n_out, bias=False))
        layer.add_module(part, m)
    model = torch.nn.Module()
    model.model = torch.nn.Module()
    model.model.layers = torch.nn.ModuleList([layer])
    return model


def main():
    torch.manual_seed(11)
    names = [n for part in SHAPES.values() for n in part]
    m = peft.get_peft_model(tree(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=names))
    params = {n.replace("base_model.model.", "").replace(".default", ""): p for n, p in m.named_parameters() if p.requires_grad}
    assert len(params) == 14
    opt = create_loraplus_optimizer(m, torch.optim.AdamW, lr=RATES[0], loraplus_lr_ratio=RATIO, loraplus_weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    base = [g["lr"] / RATES[0] for g in opt.param_groups]
    out = {"rates": torch.tensor(RATES, dtype=torch.float64)}
    for n, p in params.items():
        p.data = torch.randn_like(p) * 0.1
        out[f"{n}.p.0"] = p.detach().clone()
    for t in range(1, STEPS + 1):
        for g, b in zip(opt.param_groups, base):
            g["lr"] = RATES[t - 1] * b
        for n, p in params.items():
            p.grad = torch.randn_like(p) * 0.01
            out[f"{n}.g.{t}"] = p.grad.clone()
        opt.step()
        for n, p in params.items():
            out[f"{n}.p.{t}"] = p.detach().clone()
    save_file(out, sys.argv[1], metadata={"peft": peft.__version__, "torch": torch.__version__, "ratio": str(RATIO), "weight_decay": str(DECAY)})


if __name__ == "__main__":
    main()
