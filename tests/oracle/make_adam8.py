#!/usr/bin/env python3
"""Makes adam8.safetensors: bitsandbytes' blockwise 8-bit AdamW on the CPU,
step by step, checked against a model of it written out below.

usage: make_adam8.py OUT_FILE

One step: m, v are dequantised (map[code] * absmax of its block of 256), then
m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g g; p *= 1 - lr wd;
p -= (lr / (1 - b1^t)) * m / (sqrt(v) / sqrt(1 - b2^t) + eps); then m is stored with the
signed dynamic map, v with the unsigned one, by the rule of make_nf4.py's second
level. Tensors under 4,096 elements keep m and v in fp32; eps there is the same
after the library's rearrangement."""
import sys

import bitsandbytes as bnb
import numpy as np
import torch
from safetensors.torch import save_file

from make_nf4 import DYN, UDYN, table

F = np.float32
STEPS, LR, BETAS, EPS, DECAY = 4, [2e-3, 5e-3, 4e-3, 1e-3], (0.9, 0.999), 1e-8, 0.01
LUT = {True: table(DYN), False: table(UDYN)}


def deq(codes, absmax, signed):
    return (DYN if signed else UDYN)[codes] * np.repeat(absmax, 256)[:len(codes)]


def quant(x, signed):
    codes, scales = np.zeros(len(x), np.uint8), []
    for i in range(0, len(x), 256):
        b = x[i:i + 256]
        s = np.abs(b).max()
        scales.append(s)
        if s:
            v = np.clip((b * (F(1) / s)).astype(F), F(-1), F(1))
            codes[i:i + 256] = LUT[signed][(((v + F(1)) * F(0.5)).astype(F) * F(65535) + F(0.5)).astype(np.int64)]
    return codes, np.array(scales, F)


def main():
    g = torch.Generator().manual_seed(8)
    shapes = {"odd": (65, 67), "edge": (64, 64), "small": (31, 33)}
    params = {n: torch.nn.Parameter(torch.randn(*s, generator=g) * 0.1) for n, s in shapes.items()}
    opt = bnb.optim.AdamW8bit(list(params.values()), lr=LR[0], betas=BETAS, eps=EPS, weight_decay=DECAY)
    out = {n + ".p.0": p.detach().clone() for n, p in params.items()}
    worst = 0.0
    for t in range(1, STEPS + 1):
        grads = {}
        for n, p in params.items():
            rows = torch.exp(2 * torch.randn(p.shape[0], 1, generator=g))  # a wide range inside a block
            grad = torch.randn(p.shape, generator=g) * rows * 1e-3
            if n == "edge":
                grad[8:16] = 0                                             # whole blocks that never move
            grads[n] = grad
            out[f"{n}.g.{t}"] = grad
            p.grad = grad.clone()
        before = {n: (p.detach().numpy().ravel().copy(),
                      {k: v.clone() for k, v in opt.state[p].items() if torch.is_tensor(v)}) for n, p in params.items()}
        for gr in opt.param_groups:
            gr["lr"] = LR[t - 1]
        opt.step()
        for n, p in params.items():
            st = opt.state[p]
            p0, s0 = before[n]
            gr = grads[n].numpy().ravel().astype(np.float64)
            eight = p.numel() >= 4096
            if eight:
                assert st["state1"].dtype == torch.uint8 and np.array_equal(st["qmap1"].numpy(), DYN) and np.array_equal(st["qmap2"].numpy(), UDYN)
            if t == 1:
                m = v = np.zeros(p.numel())
            elif eight:
                m = deq(s0["state1"].numpy().ravel(), s0["absmax1"].numpy(), True).astype(np.float64)
                v = deq(s0["state2"].numpy().ravel(), s0["absmax2"].numpy(), False).astype(np.float64)
            else:
                m, v = s0["state1"].numpy().ravel().astype(np.float64), s0["state2"].numpy().ravel().astype(np.float64)
            m = BETAS[0] * m + (1 - BETAS[0]) * gr
            v = BETAS[1] * v + (1 - BETAS[1]) * gr * gr
            want = p0 * (1 - LR[t - 1] * DECAY) - LR[t - 1] / (1 - BETAS[0]**t) * m / (np.sqrt(v) / np.sqrt(1 - BETAS[1]**t) + EPS)
            worst = max(worst, np.abs(want - p.detach().numpy().ravel()).max())
            if eight:
                for x, k, signed in ((m, "1", True), (v, "2", False)):
                    codes, absmax = quant(x.astype(F), signed)
                    got = st["state" + k].numpy().ravel()
                    off = np.abs(codes.astype(int) - got.astype(int))
                    assert off.max() <= 1 and (off > 0).mean() < 1e-3, (n, t, k, off.max(), (off > 0).sum())
                    assert np.allclose(absmax, st["absmax" + k].numpy(), rtol=3e-7, atol=0)
                    out[f"{n}.absmax{k}.{t}"] = st["absmax" + k].clone()
            out[f"{n}.state1.{t}"], out[f"{n}.state2.{t}"] = st["state1"].clone(), st["state2"].clone()
            out[f"{n}.p.{t}"] = p.detach().clone()
    assert worst < 1e-6, worst
    out["lr"] = torch.tensor(LR, dtype=torch.float64)
    save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1],
              metadata={"bitsandbytes": bnb.__version__, "torch": torch.__version__, "betas": "0.9,0.999", "eps": "1e-8",
                        "weight_decay": "0.01", "steps": str(STEPS), "model_max_abs": f"{worst:.3e}"})


if __name__ == "__main__":
    main()
