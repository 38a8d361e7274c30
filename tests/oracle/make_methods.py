#!/usr/bin/env python3
"""Makes methods.safetensors and methods.tokens.safetensors: ten steps of PyTorch + PEFT in fp64 with several methods at once.

usage: make_methods.py MODEL_DIR OUT_DIR   (MODEL_DIR: data/stories260K)

A rank-stabilised adapter on projections that a regular expression names, PEFT's LoRA+ groups, transformers' warm-up-stable-decay,
clipping. The same run in fp32 says how far PyTorch itself is from that truth."""
import os, sys

import peft
import torch
import transformers
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file

from make_model import VERSIONS, lift_to_fp64, loss_and_grads, lora_params, lower_to_fp32

STEPS, BATCH, LENS = 10, 2, (13, 40, 25, 9, 31)
TARGETS = r"model\.layers\.(1|3)\.self_attn\.(q|k|v|o)_proj|.*\.4\.mlp\.(gate|down)_proj"
RANK, ALPHA, RATIO, LR, WARMUP, DECAY_STEPS, DECAY, CLIP = 4, 8, 8.0, 2e-3, 2, 5, 0.05, 0.5


def tokens(g):
    ids, mask, start = [], [], [0]
    for n in LENS:
        ids.append(torch.randint(3, 512, (n,), generator=g, dtype=torch.int32))
        m = (torch.rand(n, generator=g) < 0.7).to(torch.uint8)
        m[0] = 0
        mask.append(m)
        start.append(start[-1] + n)
    start = torch.tensor(start, dtype=torch.int64)
    return {"input_ids": torch.cat(ids), "loss_mask": torch.cat(mask), "row_start": start, "seq_start": start.clone(),
            "seq_record": torch.arange(len(LENS), dtype=torch.int64)}


def rows_of(t, rows):
    """Some rows as a case of make_model.py."""
    at = [(int(t["seq_start"][r]), int(t["seq_start"][r + 1])) for r in rows]
    return {"input_ids": torch.cat([t["input_ids"][a:b] for a, b in at]), "loss_mask": torch.cat([t["loss_mask"][a:b] for a, b in at]),
            "seq_start": torch.tensor([0, *torch.tensor([b - a for a, b in at]).cumsum(0)])}


def run(model_dir, t, init, dtype):
    config = transformers.AutoConfig.from_pretrained(model_dir)
    (lift_to_fp64 if dtype == torch.float64 else lower_to_fp32)(config.model_type)
    m = transformers.AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager", dtype=dtype)
    m = peft.get_peft_model(m, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, use_rslora=True, task_type="CAUSAL_LM")).to(dtype).eval()
    params, out = lora_params(m), {}
    for n, p in params:
        p.data.copy_(init.setdefault(n, torch.randn(p.shape, generator=init["g"]) * (0.5 / p.shape[1] ** 0.5 if "lora_A" in n else 0.05)))
    opt = create_loraplus_optimizer(m, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=RATIO, loraplus_weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8,
                                    foreach=False, fused=False)
    rates = transformers.get_wsd_schedule(opt, WARMUP, DECAY_STEPS, num_training_steps=STEPS, decay_type="1-sqrt")
    losses, norms = [], []
    for s in range(STEPS):
        case = rows_of(t, [(s * BATCH + i) % len(LENS) for i in range(BATCH)])
        losses.append(loss_and_grads(m, case, int(case["loss_mask"].sum())))
        for n, p in params:
            if s in (0, STEPS - 1):
                out[f"grad.{s}.{n}"] = p.grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in params], CLIP, foreach=False).item())
        opt.step()
        rates.step()
    out["loss"], out["grad_norm"] = torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64)
    for n, p in params:
        out["final." + n] = p.detach().clone()
    return out


def away(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


def main():
    model_dir, dest = sys.argv[1:3]
    g = torch.Generator().manual_seed(7)
    t = tokens(g)
    init = {"g": g}
    truth, f32 = (run(model_dir, t, init, d) for d in (torch.float64, torch.float32))
    init.pop("g")
    meta = {"fp32_" + kind: f"{max(away(f32[k], v) for k, v in truth.items() if k.startswith(kind)):.3e}" for kind in ("loss", "grad_norm", "grad.", "final.")}
    out = dict(truth, **{"init." + n: v for n, v in init.items()})
    settings = dict(targets=TARGETS, rank=RANK, alpha=ALPHA, ratio=RATIO, lr=LR, warmup=WARMUP, decay_steps=DECAY_STEPS, weight_decay=DECAY, clip=CLIP, batch=BATCH)
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dest, "methods.safetensors"), metadata={k: str(v) for k, v in {**VERSIONS, **meta, **settings}.items()})
    save_file(t, os.path.join(dest, "methods.tokens.safetensors"), metadata={"vocab_size": "512", "packing": "none", "max_len": "40"})
    print(meta, truth["loss"].tolist(), truth["grad_norm"].tolist())


if __name__ == "__main__":
    main()
