#!/usr/bin/env python3
"""Makes schedule.json: the learning rate of every optimiser step by
transformers' schedules.

usage: make_schedule.py OUT_FILE

transformers' Trainer: warmup steps = --warmup-steps, or ceil(ratio * steps);
the first step is taken at multiplier(0), which is 0 with a warm-up."""
import json, math, sys, warnings

import torch
import transformers
from transformers.optimization import (get_constant_schedule, get_constant_schedule_with_warmup,
                                       get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup, get_wsd_schedule)

warnings.simplefilter("ignore")


def rates(kind, lr, steps, warmup, decay=0, shape=None):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    if kind == "cosine":
        s = get_cosine_schedule_with_warmup(opt, warmup, steps)
    elif kind == "linear":
        s = get_linear_schedule_with_warmup(opt, warmup, steps)
    elif kind == "wsd":
        s = get_wsd_schedule(opt, warmup, decay, num_training_steps=steps, decay_type=shape)
    elif warmup:
        s = get_constant_schedule_with_warmup(opt, warmup)
    else:
        s = get_constant_schedule(opt)
    out = []
    for _ in range(steps):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        s.step()
    return out


def main():
    cases = []
    for kind in ("cosine", "linear", "constant"):
        for lr, steps, warmup, ratio in ((2e-4, 40, None, 0.05), (2e-4, 37, None, 0.03), (1e-2, 60, 10, None),
                                         (5e-5, 20, 0, None), (1e-3, 1, 0, None), (1e-3, 7, 7, None), (2e-4, 11, 20, None),
                                         (3e-4, 100, None, 0.1), (1e-3, 2, 1, None)):
            w = warmup if ratio is None else math.ceil(ratio * steps)
            c = {"schedule": kind, "lr": lr, "steps": steps, "rates": rates(kind, lr, steps, w), "warmup": w}
            if ratio is None:
                c["warmup_steps"] = warmup
            else:
                c["warmup_ratio"] = ratio
            cases.append(c)
    # (5e-5, ...): warm-up and end take more than all steps
    for shape in ("cosine", "linear", "1-sqrt"):
        for lr, steps, warmup, decay in ((2e-4, 40, 4, 8), (3e-4, 37, 0, 37), (1e-3, 20, 5, 0), (1e-2, 30, 29, 1), (5e-5, 12, 8, 10)):
            cases.append({"schedule": "wsd", "shape": shape, "lr": lr, "steps": steps, "warmup": warmup, "warmup_steps": warmup,
                          "decay": decay, "rates": rates("wsd", lr, steps, warmup, decay, shape)})
    with open(sys.argv[1], "w") as f:
        f.write('{"transformers": "%s", "torch": "%s", "cases": [\n' % (transformers.__version__, torch.__version__))
        f.write(",\n".join(json.dumps(c) for c in cases))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
