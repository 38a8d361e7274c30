#!/usr/bin/env python3
"""Makes dora.safetensors and dora.tokens.safetensors: ten steps of DoRA, by PyTorch + PEFT (use_dora) in fp64.

usage: make_dora.py TREE OUT_DIR   (TREE: this source tree; the models are those of tests/conformance/model)

Each case has its own name before its tensors. The same run in fp32 says how far PyTorch itself is from that truth. Dropout's masks are those of
kernels/dropout.h, so that both see the same; where it is on, PEFT gives the masked input to the base's product too, all of it but the part that
LoRA's own formula has."""
import os, sys

import numpy as np
import peft
import torch
import transformers
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file

from make_methods import away, rows_of
from make_model import VERSIONS, lift_to_fp64, loss_and_grads, lora_params, lower_to_fp32, quantise

STEPS, BATCH, LENS, SEED = 10, 2, (13, 40, 25, 9, 31), 42
WARMUP, DECAY_STEPS, DECAY, CLIP = 2, 5, 0.05, 0.5
SLOTS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DROPOUT_STREAM = 6986330420047521775  # rng_stream("dropout")
CASES = {
    # grouped queries, attention alone and not in all layers, rank-stabilised, LoRA+
    "attention": dict(model="tests/conformance/model/llama3", targets=r"model\.layers\.1\.self_attn\.(q|k|v|o)_proj", rank=4, alpha=8, rslora=True, ratio=8.0, lr=2e-3),
    "nf4": dict(model="tests/conformance/model/llama", targets="all", rank=4, alpha=8, nf4=True, lr=5e-3),
    "bias": dict(model="tests/conformance/model/qwen2", targets="all", rank=3, alpha=8, lr=5e-3),
    "dropout": dict(model="tests/conformance/model/qwen2", targets=r".*_proj", rank=4, alpha=8, dropout=0.25, lr=5e-3),
    "some": dict(model="tests/conformance/model/qwen2", targets=r".*\.(v|up|down)_proj", rank=4, alpha=8, dropout=0.25, lr=5e-3),
}


def philox(ctr, key):
    c = [np.asarray(x, np.uint64) for x in ctr]
    k = [np.uint64(x) for x in key]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k[0], p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return c


def halves(x):
    return x & 0xFFFFFFFF, x >> 32


def seed_of_step(step):
    a, b = halves(DROPOUT_STREAM)
    w = philox([a, b, *halves(step)], halves(SEED))
    return int(w[0]) | int(w[1]) << 32


class Keyed(torch.nn.Module):
    """dropout.h's mask, for the sequence and step that `now` names."""
    now = {"record": 0, "seed": 0}

    def __init__(self, p, number):
        super().__init__()
        self.p, self.number = p, number

    def forward(self, x):
        t, c = x.shape[-2:]
        pos, col = np.meshgrid(np.arange(t), np.arange((c + 3) // 4), indexing="ij")
        full = np.zeros_like(pos)
        words = np.stack(philox([pos, full + self.now["record"], col, full + self.number], halves(self.now["seed"])), -1).reshape(t, -1)[:, :c]
        p = np.float32(self.p)  # as the key holds it
        keep = torch.tensor((words >= int(float(p) * 2.0**32)).astype(np.float64) / (1.0 - float(p)))
        return x * keep.to(x.dtype)


def key_dropout(m, p):
    for n, module in m.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            parts = n.split(".")
            number = int(parts[parts.index("layers") + 1]) * len(SLOTS) + SLOTS.index(parts[-1])
            module.lora_dropout["default"] = Keyed(p, number)


def build(tree, c, dtype):
    path = os.path.join(tree, c["model"])
    config = transformers.AutoConfig.from_pretrained(path)
    (lift_to_fp64 if dtype == torch.float64 else lower_to_fp32)(config.model_type)
    m = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=dtype)
    if c.get("nf4"):
        m.load_state_dict({k: v.to(dtype) for k, v in quantise(load_file(os.path.join(path, "model.safetensors")))[0].items()}, strict=False)
    targets = SLOTS if c["targets"] == "all" else c["targets"]
    m = peft.get_peft_model(m, peft.LoraConfig(r=c["rank"], lora_alpha=c["alpha"], target_modules=targets, use_rslora=c.get("rslora", False), use_dora=True,
                                               lora_dropout=c.get("dropout", 0.0), task_type="CAUSAL_LM")).to(dtype)
    if c.get("dropout"):
        key_dropout(m, c["dropout"])
    return m.train()


def start(m, init, g):
    """A and B at random, so that every part carries something; magnitudes near the norms that PEFT starts from."""
    for n, p in lora_params(m):
        if n not in init:
            r = torch.randn(p.shape, generator=g)
            if "magnitude" in n:
                init[n] = (p.detach() * (1 + 0.1 * r)).float()
            else:
                init[n] = r * (0.5 / p.shape[1] ** 0.5 if "lora_A" in n else 0.05)
        p.data.copy_(init[n])


def loss_of(m, t, rows, step):
    """loss_and_grads, sequence by sequence, each with its record's masks."""
    total, n = 0.0, int(rows_of(t, rows)["loss_mask"].sum())
    grads = None
    for r in rows:
        Keyed.now.update(record=int(t["seq_record"][r]), seed=seed_of_step(step))
        total += loss_and_grads(m, rows_of(t, [r]), n)
        mine = [p.grad.clone() for _, p in lora_params(m)]
        grads = mine if grads is None else [a + b for a, b in zip(grads, mine)]
    for (_, p), x in zip(lora_params(m), grads):
        p.grad = x
    return total


def run(tree, c, t, init, g, dtype):
    m = build(tree, c, dtype)
    start(m, init, g)
    params, out = lora_params(m), {}
    opt = create_loraplus_optimizer(m, torch.optim.AdamW, lr=c["lr"], loraplus_lr_ratio=c.get("ratio", 1.0), loraplus_weight_decay=DECAY, betas=(0.9, 0.999),
                                    eps=1e-8, foreach=False, fused=False)
    rates = transformers.get_wsd_schedule(opt, WARMUP, DECAY_STEPS, num_training_steps=STEPS, decay_type="1-sqrt")
    losses, norms = [], []
    for s in range(STEPS):
        losses.append(loss_of(m, t, [(s * BATCH + i) % len(LENS) for i in range(BATCH)], s))
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


def first_step(tree, c, t, init, g, dtype, scale):
    """Losses of the first step's tokens and the gradient of their mean, all of it in dtype but the losses."""
    m = build(tree, c, dtype)
    start(m, init, g)
    nll = []
    for r in range(BATCH):
        Keyed.now.update(record=int(t["seq_record"][r]), seed=seed_of_step(0))
        case = rows_of(t, [r])
        ids = case["input_ids"].long()
        logits = m(input_ids=ids[None], use_cache=False).logits[0]
        each = torch.nn.functional.cross_entropy(logits[:-1].to(torch.float64), ids[1:], reduction="none")
        nll.append(each[case["loss_mask"][1:].bool()])
    nll = torch.cat(nll)
    (nll.mean() * scale).backward()
    return nll.detach(), {n: p.grad.double() / scale for n, p in lora_params(m)}


def sixteen(tree, c, t, init, g, meta, case):
    """How far PyTorch in 16 bits lies from the truth in the first step, as make_16bit.py has it."""
    nll, grads = first_step(tree, c, t, init, g, torch.float64, 1)
    for kind, dtype, scale in (("bf16", torch.bfloat16, 1), ("fp16", torch.float16, 4096)):
        nll16, grads16 = first_step(tree, c, t, init, g, dtype, scale)
        d = {n: (grads16[n] - x).pow(2).sum().item() for n, x in grads.items()}
        size = {n: x.pow(2).sum().item() for n, x in grads.items()}
        meta[f"{case}.{kind}_nll"] = f"{(nll16 - nll).abs().max().item():.3e}"
        meta[f"{case}.{kind}_loss"] = f"{abs((nll16.mean() - nll.mean()).item()):.3e}"
        meta[f"{case}.{kind}_grad"] = f"{(sum(d.values()) / sum(size.values())) ** 0.5:.3e}"
        meta[f"{case}.{kind}_grad_worst"] = f"{max((d[n] / size[n]) ** 0.5 for n in d):.3e}"


def tokens(g):
    n = sum(LENS)
    start = torch.tensor([0, *np.cumsum(LENS)], dtype=torch.int64)
    mask = (torch.rand(n, generator=g) < 0.7).to(torch.uint8)
    mask[start[:-1]] = 0
    return {"input_ids": torch.randint(3, 71, (n,), generator=g, dtype=torch.int32), "loss_mask": mask, "row_start": start, "seq_start": start.clone(),
            "seq_record": torch.arange(len(LENS), dtype=torch.int64)}


def short(name):
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def main():
    tree, dest = sys.argv[1:3]
    g = torch.Generator().manual_seed(9)
    t, out, meta = tokens(g), {}, dict(VERSIONS, warmup=WARMUP, decay_steps=DECAY_STEPS, weight_decay=DECAY, clip=CLIP, seed=SEED)
    for case, c in CASES.items():
        init = {}
        truth = run(tree, c, t, init, g, torch.float64)
        f32 = run(tree, c, t, init, g, torch.float32)
        for kind in ("loss", "grad_norm", "grad.", "final."):
            meta[f"{case}.fp32_{kind}"] = f"{max(away(f32[k], v) for k, v in truth.items() if k.startswith(kind)):.3e}"
        for k, v in {"ratio": 0, "dropout": 0, "nf4": False, "rslora": False, **c}.items():
            meta[f"{case}.{k}"] = int(v) if isinstance(v, bool) else v
        for k, v in {**truth, **{"init." + n: v for n, v in init.items()}}.items():
            out[f"{case}.{short(k)}"] = v.contiguous()
        sixteen(tree, c, t, init, g, meta, case)
        print(case, {k: v for k, v in meta.items() if k.startswith((case + ".fp32", case + ".bf16", case + ".fp16"))}, truth["loss"].tolist(), truth["grad_norm"].tolist(), flush=True)
    save_file(out, os.path.join(dest, "dora.safetensors"), metadata={k: str(v) for k, v in meta.items()})
    save_file(t, os.path.join(dest, "dora.tokens.safetensors"), metadata={"vocab_size": "71", "packing": "none", "max_len": "40"})


if __name__ == "__main__":
    main()
