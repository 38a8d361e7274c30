#!/usr/bin/env python3
"""Makes preference.safetensors and preference.tokens.safetensors: ten steps of each preference method, and of a reward model, with
PyTorch + PEFT in fp64.

usage: make_preference.py MODEL_DIR OUT_DIR   (MODEL_DIR: data/stories260K)

The formulas are the papers' as TRL has them, of a pair (or, KTO, of an answer) alone: a step's loss is their mean. Where `trl` is
installed its own functions are called with the same log-probabilities first, and must agree; its version is in the file then.
Two things are ours on purpose, since a loss must not depend on how a step is cut into batches: ORPO's likelihood term is the mean over
pairs of the mean over the chosen answer's tokens (the paper's; TRL's is the batch's mean over prompt and answer), and KTO's z0 is that
of the whole optimiser step, each prompt with the answer of the record behind it (TRL's is the batch's).
"point" is one step over all records with B away from 0: there PyTorch in 16 bits (weights, adapter and activations; losses in fp32 as
trainers take them) says how far a 16-bit device may be from the truth."""
import os, sys, types
from collections import defaultdict

import peft
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from make_model import VERSIONS, lift_to_fp64, lora_params, lower_to_fp32, sequences, token_nll

LOSS_TYPE = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
STEPS, BATCH, GRAD_STEP = 10, 2, 1  # at step 0 the gradients of all A are 0
TARGETS = r"model\.layers\.(1|3)\.self_attn\.(q|v)_proj|model\.layers\.4\.mlp\.down_proj"
RANK, ALPHA, LR, DECAY, CLIP = 2, 4, 5e-3, 0.05, 1.0
EPS = 1e-8
DRAWS = 6  # of PyTorch, each with other last bits of the adapter: how far Adam drives a few elements apart is luck
SCALE = {torch.bfloat16: 1, torch.float16: 4096}  # of the loss, for its gradient
# of each pair the tokens of the prompt, of the chosen answer, of the rejected one
PAIRS = ((6, 9, 5), (4, 7, 12), (11, 3, 4), (2, 16, 8), (7, 5, 5))
CASES = {
    "dpo": dict(method="dpo", beta=0.3),
    "dpo_smooth": dict(method="dpo", beta=0.2, smoothing=0.2),
    "ipo": dict(method="ipo", beta=0.4),
    "orpo": dict(method="orpo", beta=0.5),
    "simpo": dict(method="simpo", beta=2.0, gamma=1.0),
    "kto": dict(method="kto", beta=0.3, desirable=1.0, undesirable=1.25),
    "reward": dict(method="reward"),
}


def tokens(g):
    ids, mask, start, pair, side = [], [], [0], [], []
    for i, (p, c, r) in enumerate(PAIRS):
        prompt = torch.randint(3, 512, (p,), generator=g, dtype=torch.int32)
        for good, n in ((1, c), (0, r)):
            ids += [prompt, torch.randint(3, 512, (n,), generator=g, dtype=torch.int32)]
            mask.append(torch.cat([torch.zeros(p, dtype=torch.uint8), torch.ones(n, dtype=torch.uint8)]))
            start.append(start[-1] + p + n)
            pair.append(i)
            side.append(good)
    start, pair = torch.tensor(start, dtype=torch.int64), torch.tensor(pair, dtype=torch.int64)
    return {"input_ids": torch.cat(ids), "loss_mask": torch.cat(mask), "row_start": start, "seq_start": start.clone(),
            "seq_record": pair.clone(), "pair_id": pair, "pair_side": torch.tensor(side, dtype=torch.uint8)}


def mismatched(seqs):
    """Each prompt with the answer, of the same side, of the record behind it."""
    out = []
    for i, (ids, mask) in enumerate(seqs):
        next_ids, next_mask = seqs[(i + 2) % len(seqs)]
        out.append((torch.cat([ids[~mask], next_ids[next_mask]]), torch.cat([mask[~mask], next_mask[next_mask]])))
    return out


def logp(model, seq):
    if model.dtype in SCALE:
        logits = model(input_ids=seq[0][None], use_cache=False).logits[0].float()
        return -(F.cross_entropy(logits[:-1], seq[0][1:], reduction="none") * seq[1][1:]).sum()
    return -(token_nll(model, seq[0])[1] * seq[1]).sum()


# --- losses of a pair: (loss, reward of the chosen answer, of the rejected one) ---

def smooth(z, eps):
    return -(1 - eps) * F.logsigmoid(z) - eps * F.logsigmoid(-z)


def pair_loss(c, w, l, rw, rl, nw, nl):
    b, eps = c.get("beta"), c.get("smoothing", 0.0)
    if c["method"] == "dpo":
        return smooth(b * ((w - rw) - (l - rl)), eps), b * (w - rw), b * (l - rl)
    if c["method"] == "ipo":
        return ((w - rw) / nw - (l - rl) / nl - 1 / (2 * b)) ** 2, b * (w - rw), b * (l - rl)
    if c["method"] == "simpo":
        return smooth(b * (w / nw - l / nl) - c["gamma"], eps), b * w / nw, b * l / nl
    if c["method"] == "orpo":
        odds = (w / nw - l / nl) - (torch.log1p(-torch.exp(w / nw)) - torch.log1p(-torch.exp(l / nl)))
        return -w / nw - b * F.logsigmoid(odds), b * w / nw, b * l / nl
    return -F.logsigmoid(w - l), w, l  # reward: of scores


def kto_loss(c, good, x, ref, z0):
    r, b = x - ref, c["beta"]
    loss = c["desirable"] * (1 - torch.sigmoid(b * (r - z0))) if good else c["undesirable"] * (1 - torch.sigmoid(b * (z0 - r)))
    return loss, b * r


# --- TRL's own functions on the same numbers ---

def fake_trainer(**more):
    same = lambda x: x
    return types.SimpleNamespace(model=types.SimpleNamespace(training=True), aux_loss_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
                                 accelerator=types.SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same, unwrap_model=same),
                                 _total_train_tokens=0, _tp_size=1, precompute_ref_logps=True, **more)


def with_log_probs(logps):
    """A model whose tokens' log-probabilities are given: all of a sequence's on its first token that counts."""
    per_token = torch.stack([torch.cat([x[None], torch.zeros(int(n) - 1, dtype=x.dtype), torch.zeros(40 - int(n), dtype=x.dtype)]) for x, n in logps])
    mask = torch.stack([torch.cat([torch.zeros(1), torch.ones(int(n)), torch.zeros(40 - int(n))]) for _, n in logps])
    zero = torch.zeros_like(per_token)
    out = types.SimpleNamespace(log_probs=per_token, entropy=zero, mean_logits=zero, is_top1=zero.bool())
    return (lambda **_: out), {"input_ids": torch.zeros(mask.shape, dtype=torch.long), "attention_mask": torch.ones(mask.shape), "completion_mask": mask.long()}


def check_trl():
    try:
        import trl
        from trl.experimental.cpo.cpo_trainer import CPOTrainer
        from trl.experimental.orpo.orpo_trainer import ORPOTrainer
    except ImportError:
        return "none"
    g = torch.Generator().manual_seed(1)
    n = torch.randint(2, 30, (2, 6), generator=g).double()
    w, l = (-n * torch.rand(6, generator=g, dtype=torch.float64) * 2 for n in n)
    rw, rl = w + torch.randn(6, generator=g, dtype=torch.float64), l + torch.randn(6, generator=g, dtype=torch.float64)
    near = lambda a, b, what, tol=1e-12: print(f"trl {trl.__version__} {what}: {float(a):.9f} {float(b):.9f}") or abs(float(a - b)) <= tol * (1 + abs(float(b))) or sys.exit(what)
    for name in ("dpo", "ipo"):
        c = CASES[name]
        t = fake_trainer(ld_alpha=None, f_divergence_type="reverse_kl", loss_types=["sigmoid" if name == "dpo" else "ipo"], loss_weights=[1.0], beta=c["beta"], use_weighting=False)
        model, inputs = with_log_probs([*zip(w, n[0]), *zip(l, n[1])])
        got = trl.DPOTrainer._compute_loss(t, model, dict(inputs, ref_chosen_logps=rw, ref_rejected_logps=rl), False)
        loss, a, b = pair_loss(c, w, l, rw, rl, n[0], n[1])
        near(loss.mean(), got, name)
        m = {k: v[0] for k, v in t._metrics["train"].items()}
        near(a.mean(), torch.tensor(m["rewards/chosen"]), name + " rewards/chosen", 1e-6)
        near((a - b).mean(), torch.tensor(m["rewards/margins"]), name + " rewards/margins", 1e-6)
    for name in ("simpo", "dpo_smooth"):
        c = dict(CASES["simpo"], smoothing=0.1 if name == "dpo_smooth" else 0.0)
        t = types.SimpleNamespace(accelerator=types.SimpleNamespace(device="cpu"), loss_type="simpo", beta=c["beta"], simpo_gamma=c["gamma"], alpha=0.0, label_smoothing=c["smoothing"])
        got = CPOTrainer.cpo_loss(t, w / n[0], l / n[1])
        loss, a, _ = pair_loss(c, w, l, rw, rl, n[0], n[1])
        near(loss.mean(), got[0].mean(), "simpo, smoothing %g" % c["smoothing"])
        near(a.mean(), got[1].mean(), "simpo rewards/chosen")
    t = types.SimpleNamespace(accelerator=types.SimpleNamespace(device="cpu"), beta=CASES["orpo"]["beta"])
    got = ORPOTrainer.odds_ratio_loss(t, w / n[0], l / n[1])
    loss, a, _ = pair_loss(CASES["orpo"], w, l, rw, rl, n[0], n[1])
    near((loss + w / n[0]).mean(), -got[0].mean(), "orpo", 1e-5)  # TRL's is in fp32
    c, label = CASES["kto"], torch.tensor([True, False, False, True, True, False])
    t = fake_trainer(loss_type="kto", beta=c["beta"], desirable_weight=c["desirable"], undesirable_weight=c["undesirable"], calculate_KL=True)
    kl = l + 0.7
    t._compute_kl_logps = lambda model, batch: kl
    model, inputs = with_log_probs([*zip(w, n[0])])
    got = trl.KTOTrainer._compute_loss(t, model, dict(inputs, label=label, ref_logps=rw, ref_KL_logps=l), False)
    near(torch.stack([kto_loss(c, g, x, r, 0.7)[0] for g, x, r in zip(label, w, rw)]).mean(), got, "kto", 1e-6)
    t = fake_trainer(args=types.SimpleNamespace(center_rewards_coefficient=None))
    got = trl.RewardTrainer.compute_loss(t, lambda **_: types.SimpleNamespace(logits=torch.cat([w, l])[:, None]), dict(inputs))
    near(pair_loss(CASES["reward"], w, l, 0, 0, 1, 1)[0].mean(), got, "reward")
    return trl.__version__


# --- ten steps ---

def build(model_dir, c, init, dtype):
    config = transformers.AutoConfig.from_pretrained(model_dir)
    (lift_to_fp64 if dtype == torch.float64 else lower_to_fp32)(config.model_type)
    scored = c["method"] == "reward"
    kind = transformers.AutoModelForSequenceClassification if scored else transformers.AutoModelForCausalLM
    more = dict(num_labels=1) if scored else {}
    m = kind.from_pretrained(model_dir, attn_implementation="eager", dtype=dtype, **more)
    m = peft.get_peft_model(m, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="SEQ_CLS" if scored else "CAUSAL_LM")).to(dtype).eval()
    params = lora_params(m)
    for n, p in m.named_parameters():
        if "score" in n and "modules_to_save" in n:
            params.append(("score.weight", p))
    for n, p in params:
        start = lambda: torch.randn(p.shape, generator=init["g"]) * (0.5 / p.shape[1] ** 0.5) if "lora_B" not in n else torch.zeros(p.shape)
        p.data.copy_(init[n] if n in init else init.setdefault(n, start()))
        assert p.requires_grad
    return m, params


def step_loss(m, c, seqs, refs, kl, kl_refs, rows):
    """The step's loss, and its metrics."""
    value = (lambda s: m(input_ids=s[0][None], use_cache=False).logits[0, 0].to(LOSS_TYPE.get(m.dtype, m.dtype))) if c["method"] == "reward" else (lambda s: logp(m, s))
    losses, got, z0 = [], defaultdict(list), 0.0
    if c["method"] == "kto":
        with torch.no_grad():
            z0 = max(0.0, sum((logp(m, kl[i]) - kl_refs[i]).item() for i in rows) / len(rows))
        for i in rows:
            x = value(seqs[i])
            loss, r = kto_loss(c, i % 2 == 0, x, refs[i], z0)
            losses.append(loss)
            side = "rejected" if i % 2 else "chosen"
            got["rewards/" + side].append(r.item())
            got["logps/" + side].append(x.item())
        got["kl"].append(z0)
    else:
        for i in rows:
            w, l = value(seqs[2 * i]), value(seqs[2 * i + 1])
            loss, a, b = pair_loss(c, w, l, refs[2 * i], refs[2 * i + 1], int(seqs[2 * i][1].sum()), int(seqs[2 * i + 1][1].sum()))
            losses.append(loss)
            for k, v in (("rewards/chosen", a), ("rewards/rejected", b), ("logps/chosen", w), ("logps/rejected", l), ("rewards/margins", a - b), ("rewards/accuracies", a > b)):
                got[k].append(float(v))
    mean = lambda v: sum(v) / len(v) if v else float("nan")
    return sum(losses) / len(losses), torch.stack(losses).detach().reshape(-1), {k: mean(got[k]) for k in ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies", "kl")}


def run(model_dir, c, t, init, dtype, draw=0):
    m, params = build(model_dir, c, init, dtype)
    g = torch.Generator().manual_seed(draw)
    for _, p in params if draw else ():
        p.data.mul_(1 + torch.randn(p.shape, generator=g) * 2 ** -24)
    seqs = [(ids, mask) for ids, mask in sequences(t)]
    kl, kl_refs, refs = mismatched(seqs), None, [torch.zeros(())] * len(seqs)
    if c["method"] in ("dpo", "ipo", "kto"):
        with torch.no_grad(), m.disable_adapter():
            refs, kl_refs = [logp(m, s) for s in seqs], [logp(m, s) for s in kl]
    opt = torch.optim.AdamW([p for _, p in params], lr=LR, betas=(0.9, 0.999), eps=EPS, weight_decay=DECAY, foreach=False, fused=False)
    n_rows, out, told = len(PAIRS) * (2 if c["method"] == "kto" else 1), {}, defaultdict(list)
    for s in range(STEPS):
        opt.zero_grad()
        loss, _, metrics = step_loss(m, c, seqs, refs, kl, kl_refs, [(s * BATCH + i) % n_rows for i in range(BATCH)])
        loss.backward()
        for n, p in params:
            if s == GRAD_STEP:
                out[f"grad.{s}.{n}"] = p.grad.clone()
        told["loss"].append(loss.item())
        told["grad_norm"].append(torch.nn.utils.clip_grad_norm_([p for _, p in params], CLIP, foreach=False).item())
        for k, v in metrics.items():
            told[k].append(v)
        opt.step()
    for n, p in params:
        out["final." + n] = p.detach().clone()
    return dict(out, **{k: torch.tensor(v, dtype=torch.float64) for k, v in told.items()})


def run_point(model_dir, c, t, init, dtype, draw=0):
    """One step's loss and gradients where the model is not its reference. draw: another one of the type's roundings, as run's."""
    m, params = build(model_dir, c, init, dtype)
    g = torch.Generator().manual_seed(draw)
    for n, p in params:
        start = init.setdefault("point." + n, torch.randn(p.shape, generator=init["g"]) * 0.05) if "lora_B" in n else init[n]
        p.data.copy_(start * (1 + torch.randn(p.shape, generator=g) * torch.finfo(dtype).eps / 2) if draw else start)
    seqs = [(ids, mask) for ids, mask in sequences(t)]
    kl, kl_refs, refs = mismatched(seqs), None, [torch.zeros(())] * len(seqs)
    if c["method"] in ("dpo", "ipo", "kto"):
        with torch.no_grad(), m.disable_adapter():
            refs, kl_refs = [logp(m, s) for s in seqs], [logp(m, s) for s in kl]
    loss, losses, _ = step_loss(m, c, seqs, refs, kl, kl_refs, range(len(seqs) if c["method"] == "kto" else len(PAIRS)))
    (loss * SCALE.get(dtype, 1)).backward()
    return dict({"point.grad." + n: p.grad / SCALE.get(dtype, 1) for n, p in params}, **{"point.loss": loss.detach().reshape(1), "point.each": losses})


def off(a, b, kind):
    """Of all tensors of the kind together."""
    d = sum((a[k].double() - v).pow(2).sum().item() for k, v in b.items() if k.startswith(kind))
    return (d / sum(v.pow(2).sum().item() for k, v in b.items() if k.startswith(kind))) ** 0.5


def away(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


def main():
    model_dir, dest = sys.argv[1:3]
    versions = dict(VERSIONS, trl=check_trl())
    g = torch.Generator().manual_seed(11)
    t = tokens(g)
    init, out = {"g": g}, {}
    meta = dict(targets=TARGETS, rank=RANK, alpha=ALPHA, lr=LR, weight_decay=DECAY, clip=CLIP, eps=EPS, batch=BATCH, cases=",".join(CASES))
    for name, c in CASES.items():
        truth = run(model_dir, c, t, init, torch.float64)
        f32 = [run(model_dir, c, t, init, torch.float32, draw) for draw in range(DRAWS)]
        out.update({f"{name}.{k}": v for k, v in truth.items()})
        for kind in ("loss", "grad_norm", "grad.", "final."):
            meta[f"{name}.fp32_{kind}"] = f"{max(away(f[k], v) for f in f32 for k, v in truth.items() if k.startswith(kind)):.3e}"
        meta.update({f"{name}.{k}": v for k, v in c.items()})
        point = run_point(model_dir, c, t, init, torch.float64)
        out.update({f"{name}.{k}": v for k, v in point.items()})
        for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
            got = [run_point(model_dir, c, t, init, dtype, draw) for draw in range(DRAWS)]
            for what in ("each", "grad."):
                meta[f"{name}.{kind}_point_{what}"] = f"{max(off(x, point, 'point.' + what) for x in got):.3e}"
        print({k: v for k, v in meta.items() if k.startswith(name) and "point" in k})
        print(name, [round(x, 6) for x in truth["loss"].tolist()], {k: v for k, v in meta.items() if k.startswith(name + ".fp32")})
    init.pop("g")
    out.update({n if n.startswith("point.") else "init." + n: v for n, v in init.items()})
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(dest, "preference.safetensors"), metadata={k: str(v) for k, v in {**versions, **meta}.items()})
    save_file(t, os.path.join(dest, "preference.tokens.safetensors"), metadata={"vocab_size": "512", "packing": "none", "max_len": "40"})


if __name__ == "__main__":
    main()
