#!/usr/bin/env python3
"""Makes grpo.safetensors: ten steps of GRPO with PyTorch + PEFT in fp64, on completions and rewards that are given.

usage: make_grpo.py MODEL_DIR OUT_DIR   (MODEL_DIR: data/stories260K)

The formulas are TRL's: advantages from the groups' rewards, the clipped ratio, the KL estimator with and without its correction, the
three ways to divide. Where `trl` is installed its own GRPOTrainer._compute_loss is called with the same log-probabilities first, and
must agree in loss, gradient and metrics; its version is in the file then. A step takes GROUPS groups; with "updates" 2 the second step of
a batch sees the old log-probabilities of the first.
"point" is one step over all groups with B away from 0, where the batch is B = 0's: there PyTorch in 16 bits (weights, adapter and
activations; losses in fp32) says how far a 16-bit device may be from the truth. Nothing is clipped there: a ratio that falls on the other
side of a limit is no error of a size."""
import os, sys, types
from collections import defaultdict

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from make_model import VERSIONS
from make_preference import ALPHA, CLIP, DECAY, DRAWS, EPS, LR, RANK, SCALE, STEPS, TARGETS, GRAD_STEP, away, build, off

GROUP, GROUPS, MAX_NEW = 3, 2, 20
# of each group the tokens of the prompt, and of its completions
SIZES = ((6, (9, 5, 12)), (4, (7, 12, 3)), (11, (3, 4, 20)), (2, (16, 8, 1)))
CASES = {
    "dapo": dict(loss_type="dapo", scale_rewards="group", beta=0.0, kl="unbiased", epsilon=0.2, epsilon_high=0.2, temperature=1.0, updates=1),
    "grpo": dict(loss_type="grpo", scale_rewards="batch", beta=0.1, kl="unbiased", epsilon=0.02, epsilon_high=0.03, temperature=1.0, updates=2),
    "dr_grpo": dict(loss_type="dr_grpo", scale_rewards="none", beta=0.05, kl="k3", epsilon=0.01, epsilon_high=0.01, temperature=0.7, updates=2),
}


def tokens(g):
    """Sequences of ids and where their completions begin; the group's rewards."""
    seqs, rewards = [], []
    for p, sizes in SIZES:
        prompt = torch.randint(3, 512, (p,), generator=g)
        for n in sizes:
            seqs.append((torch.cat([prompt, torch.randint(3, 512, (n,), generator=g)]), p))
            rewards.append(torch.randint(0, 5, (1,), generator=g).double() / 2)
    return seqs, torch.cat(rewards)


def advantages(rewards, scale):
    g = rewards.view(-1, GROUP)
    a = (g - g.mean(1, keepdim=True)).reshape(-1)
    if scale == "none":
        return a
    std = g.std(1, keepdim=True).expand_as(g).reshape(-1) if scale == "group" else rewards.std()
    return a / (std + 1e-4)


def token_losses(c, lp, old, ref, a):
    """Of one completion's tokens: loss, KL, and which ratios are clipped."""
    ratio = torch.exp(lp - old)
    clipped = torch.clamp(ratio, 1 - c["epsilon"], 1 + c["epsilon_high"])
    loss, kl = -torch.min(ratio * a, clipped * a), torch.zeros_like(lp)
    if c["beta"]:
        kl = torch.exp(ref - lp) - (ref - lp) - 1
        kl = kl * ratio if c["kl"] == "unbiased" else kl
        loss = loss + c["beta"] * kl
    return loss, kl, (ratio < 1 - c["epsilon"]) & (a < 0), (ratio > 1 + c["epsilon_high"]) & (a > 0)


def batch_loss(c, per_seq):
    """The step's loss of its completions' token losses."""
    if c["loss_type"] == "dapo":
        return sum(x.sum() for x in per_seq) / sum(len(x) for x in per_seq)
    if c["loss_type"] == "grpo":
        return sum(x.mean() for x in per_seq) / len(per_seq)
    return sum(x.sum() for x in per_seq) / (len(per_seq) * MAX_NEW)


# --- TRL's own function on the same numbers ---

def check_trl():
    try:
        import trl
    except ImportError:
        return "none"
    g = torch.Generator().manual_seed(2)
    n = [n for _, sizes in SIZES for n in sizes]
    lp = [torch.randn(k, generator=g, dtype=torch.float64) - 2 for k in n]
    old, ref = ([x + 0.05 * torch.randn(len(x), generator=g, dtype=torch.float64) for x in lp] for _ in range(2))
    rewards = torch.randn(len(n), generator=g, dtype=torch.float64)
    pad = lambda xs: torch.stack([F.pad(x, (0, MAX_NEW - len(x))) for x in xs])
    mask, ids = pad([torch.ones(k, dtype=torch.long) for k in n]), torch.zeros(len(n), MAX_NEW, dtype=torch.long)
    for name, c in CASES.items():
        a = advantages(rewards, c["scale_rewards"])
        mine = [x.clone().requires_grad_() for x in lp]
        olds = old if c["updates"] > 1 else [x.detach() for x in mine]
        each = [token_losses(c, *x) for x in zip(mine, olds, ref, a)]
        loss = batch_loss(c, [x[0] for x in each])
        loss.backward()
        theirs = pad(lp).requires_grad_()
        same = lambda x, **_: x
        t = types.SimpleNamespace(
            model=types.SimpleNamespace(training=True), top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
            beta=c["beta"], loss_type=c["loss_type"], epsilon_low=c["epsilon"], epsilon_high=c["epsilon_high"], use_vllm=False,
            current_gradient_accumulation_steps=1, max_completion_length=MAX_NEW, _entropy_bonus_enabled=False, aux_loss_enabled=False,
            args=types.SimpleNamespace(use_bias_correction_kl=c["kl"] == "unbiased", delta=None, steps_per_generation=1),
            accelerator=types.SimpleNamespace(num_processes=1, gather=same, reduce=same), _metrics=defaultdict(lambda: defaultdict(list)),
            _get_per_token_logps_and_entropies=lambda *_, **__: (theirs, torch.zeros_like(theirs), None))
        inputs = dict(prompt_ids=ids, prompt_mask=mask, completion_ids=ids, completion_mask=mask, advantages=a, ref_per_token_logps=pad(ref),
                      num_items_in_batch=mask.sum())
        if c["updates"] > 1:
            inputs["old_per_token_logps"] = pad(old)
        got = trl.GRPOTrainer._compute_loss(t, None, inputs)
        got.backward()
        m = {k: v[0] for k, v in t._metrics["train"].items()}
        tokens_of = sum(n)
        low, high = (sum(x[k].sum() for x in each).item() / tokens_of for k in (2, 3))
        for what, x, y in (("loss", loss, got), ("gradient", pad([x.grad for x in mine]), theirs.grad), ("low", low, m["clip_ratio/low_mean"]),
                           ("high", high, m["clip_ratio/high_mean"]), *([("kl", sum(x[1].sum() for x in each) / tokens_of, m["kl"])] if c["beta"] else [])):
            x, y = torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(y, dtype=torch.float64)
            d = (x - y).abs().max().item()
            print(f"trl {trl.__version__} {name} {what}: {d:.1e}")
            if d > (1e-12 if what in ("loss", "gradient") else 1e-6):
                sys.exit(f"{name} {what}: {x} {y}")
    return trl.__version__


# --- ten steps ---

def logps(model, seq, temperature):
    """Of the completion's tokens. In 16 bits the losses are of fp32, as trainers take them."""
    ids, p = seq
    z = model(input_ids=ids[None], use_cache=False).logits[0, p - 1 : -1]
    z = (z.float() if model.dtype in SCALE else z) / temperature
    return -F.cross_entropy(z, ids[p:], reduction="none")


def reference(m, c, seqs):
    with torch.no_grad(), m.disable_adapter():
        return [logps(m, s, c["temperature"]) if c["beta"] else None for s in seqs]


def step_loss(m, c, seqs, old, ref, adv):
    per, told = [], defaultdict(float)
    for s, o, r, a in zip(seqs, old, ref, adv):
        lp = logps(m, s, c["temperature"])
        loss, kl, low, high = token_losses(c, lp, lp.detach() if o is None else o, r, a)
        per.append(loss)
        for k, v in (("kl", kl), ("clip_ratio/low_mean", low), ("clip_ratio/high_mean", high)):
            told[k] += v.double().sum().item()
    n = sum(len(x) for x in per)
    return batch_loss(c, per), torch.stack([x.detach().double().mean() for x in per]), {k: v / n for k, v in told.items()}


def old_logps(m, c, seqs):
    with torch.no_grad():
        return [logps(m, s, c["temperature"]) if c["updates"] > 1 else None for s in seqs]


def run(model_dir, c, seqs, rewards, init, dtype, draw=0):
    m, params = build(model_dir, dict(method="grpo"), init, dtype)
    g = torch.Generator().manual_seed(draw)
    for _, p in params if draw else ():
        p.data.mul_(1 + torch.randn(p.shape, generator=g) * 2 ** -24)
    opt = torch.optim.AdamW([p for _, p in params], lr=LR, betas=(0.9, 0.999), eps=EPS, weight_decay=DECAY, foreach=False, fused=False)
    out, told, n = {}, defaultdict(list), GROUP * GROUPS
    for s in range(STEPS):
        if s % c["updates"] == 0:
            at = s // c["updates"] * n % len(seqs)
            batch, adv = seqs[at : at + n], advantages(rewards[at : at + n], c["scale_rewards"])
            old, ref = old_logps(m, c, batch), reference(m, c, batch)
        opt.zero_grad()
        loss, _, metrics = step_loss(m, c, batch, old, ref, adv)
        loss.backward()
        for name, p in params:
            if s == GRAD_STEP:
                out[f"grad.{s}.{name}"] = p.grad.clone()
        told["loss"].append(loss.item())
        told["grad_norm"].append(torch.nn.utils.clip_grad_norm_([p for _, p in params], CLIP, foreach=False).item())
        for k, v in metrics.items():
            told[k].append(v)
        opt.step()
    for name, p in params:
        out["final." + name] = p.detach().clone()
    return dict(out, **{k: torch.tensor(v, dtype=torch.float64) for k, v in told.items()})


def run_point(model_dir, c, seqs, rewards, init, dtype, draw=0):
    """One step's loss and gradients away from where the completions were made. draw: another one of the type's roundings, as run's."""
    m, params = build(model_dir, dict(method="grpo"), init, dtype)
    g = torch.Generator().manual_seed(draw)
    other = lambda p: 1 + torch.randn(p.shape, generator=g) * torch.finfo(dtype).eps / 2 if draw else 1
    for n, p in params:
        p.data.copy_(init[n] * other(p))
    c = dict(c, epsilon=1e3, epsilon_high=1e3)
    old, ref = old_logps(m, c, seqs), reference(m, c, seqs)
    for n, p in params:
        if "lora_B" in n:
            p.data.copy_(init.setdefault("point." + n, torch.randn(p.shape, generator=init["g"]) * 0.05) * other(p))
    loss, each, _ = step_loss(m, c, seqs, old, ref, advantages(rewards, c["scale_rewards"]))
    (loss * SCALE.get(dtype, 1)).backward()
    return dict({"point.grad." + n: p.grad / SCALE.get(dtype, 1) for n, p in params}, **{"point.loss": loss.detach().reshape(1), "point.each": each})


def main():
    model_dir, dest = sys.argv[1:3]
    versions = dict(VERSIONS, trl=check_trl())
    g = torch.Generator().manual_seed(12)
    seqs, rewards = tokens(g)
    init = {"g": g}
    out = {"ids": torch.cat([s for s, _ in seqs]).int(), "n": torch.tensor([len(s) for s, _ in seqs]), "n_prompt": torch.tensor([p for _, p in seqs]), "rewards": rewards}
    meta = dict(targets=TARGETS, rank=RANK, alpha=ALPHA, lr=LR, weight_decay=DECAY, clip=CLIP, eps=EPS, group=GROUP, groups=GROUPS, max_new=MAX_NEW, cases=",".join(CASES))
    for name, c in CASES.items():
        truth = run(model_dir, c, seqs, rewards, init, torch.float64)
        f32 = [run(model_dir, c, seqs, rewards, init, torch.float32, draw) for draw in range(DRAWS)]
        out.update({f"{name}.{k}": v for k, v in truth.items()})
        for kind in ("loss", "grad_norm", "grad.", "final."):
            meta[f"{name}.fp32_{kind}"] = f"{max(away(f[k], v) for f in f32 for k, v in truth.items() if k.startswith(kind)):.3e}"
        meta.update({f"{name}.{k}": v for k, v in c.items()})
        point = run_point(model_dir, c, seqs, rewards, init, torch.float64)
        out.update({f"{name}.{k}": v for k, v in point.items()})
        for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
            got = [run_point(model_dir, c, seqs, rewards, init, dtype, draw) for draw in range(DRAWS)]
            for what in ("each", "grad."):
                meta[f"{name}.{kind}_point_{what}"] = f"{max(off(x, point, 'point.' + what) for x in got):.3e}"
        for k in ("loss", "kl", "clip_ratio/low_mean", "clip_ratio/high_mean"):
            print(name, k, [round(x, 6) for x in truth[k].tolist()])
        print(name, {k: v for k, v in meta.items() if k.startswith(name + ".fp32") or "point" in k and k.startswith(name)})
    init.pop("g")
    out.update({n if n.startswith("point.") else "init." + n: v for n, v in init.items()})
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dest, "grpo.safetensors"), metadata={k: str(v) for k, v in {**versions, **meta}.items()})


if __name__ == "__main__":
    main()
