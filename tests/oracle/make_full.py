#!/usr/bin/env python3
"""Makes full.safetensors and full.CASE.tokens.safetensors: ten steps of full fine-tuning by PyTorch + transformers in fp64.

usage: make_full.py MODEL_GOLDENS_DIR STORIES_DIR   (tests/conformance/model, data/stories260K; writes into the first)

Every parameter is trained, by AdamW in transformers' two groups (norms and biases do not decay), with transformers' cosine schedule and clipping. The
same run in fp32 says how far PyTorch itself is from that truth, and one whose weights and activations are bf16 beside fp32 masters what a device of that type may be. Cases: llama (untied), qwen2 (tied, biases), and stories260K with
bitsandbytes' AdamW8bit as transformers' Trainer sets it up (embeddings keep fp32 states); there the truth is the same optimiser written out in
fp64 (make_adam8.py), the other run bitsandbytes' own, and where one layer, the embedding and the last norm end is kept. galore is the same model with
galore-torch's GaLoreAdamW (type std), on its projections and, as transformers gives them to it, unprojected on the rest. tables is
PEFT on llama: its adapter, and embedding and head in modules_to_save."""
import os, sys

import bitsandbytes as bnb
import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import get_parameter_names

from galore_torch import GaLoreAdamW
from galore_torch.galore_projector import GaLoreProjector

from make_adam8 import deq, quant
from make_methods import away, rows_of
from make_model import ALPHA, RANK, TARGETS, VERSIONS, lift_to_fp64, loss_and_grads, lower_to_fp32, sequences

STEPS, BATCH, LENS = 10, 2, (13, 40, 25, 9, 31)
LR, WARMUP, DECAY, CLIP, BETAS, EPS = 2e-3, 2, 0.05, 0.5, (0.9, 0.999), 1e-8
CASES = {"llama": 71, "qwen2": 73, "stories": 512, "galore": 512, "tables": 71}
GALORE = dict(rank=8, update_proj_gap=4, scale=0.25, proj_type="std")
KEPT = tuple("final.model." + n for n in ("layers.2.", "embed_tokens.", "norm."))


def tokens(vocab):
    g = torch.Generator().manual_seed(vocab)
    ids, mask, start = [], [], [0]
    for n in LENS:
        ids.append(torch.randint(3, vocab, (n,), generator=g, dtype=torch.int32))
        m = (torch.rand(n, generator=g) < 0.7).to(torch.uint8)
        m[0] = 0
        mask.append(m)
        start.append(start[-1] + n)
    start = torch.tensor(start, dtype=torch.int64)
    return {"input_ids": torch.cat(ids), "loss_mask": torch.cat(mask), "row_start": start, "seq_start": start.clone(),
            "seq_record": torch.arange(len(LENS), dtype=torch.int64)}


class Adam8:
    """AdamW8bit in fp64: its codes, scales and order are bitsandbytes', all between them is exact."""
    def __init__(self, groups, wide):
        self.param_groups, self.wide, self.state, self.t = groups, wide, {}, 0

    def step(self):
        self.t += 1
        c1, c2 = 1 - BETAS[0]**self.t, 1 - BETAS[1]**self.t
        for g in self.param_groups:
            for p in g["params"]:
                grad = p.grad.numpy().ravel()
                eight = p.numel() >= 4096 and p not in self.wide
                m, v = self.state.get(p, (np.zeros(p.numel()),) * 2) if not eight or p not in self.state else \
                    [deq(*s, signed).astype(np.float64) for s, signed in zip(self.state[p], (True, False))]
                m, v = BETAS[0] * m + (1 - BETAS[0]) * grad, BETAS[1] * v + (1 - BETAS[1]) * grad * grad
                new = p.data.numpy().ravel() * (1 - g["lr"] * g["weight_decay"]) - g["lr"] / c1 * m / (np.sqrt(v) / np.sqrt(c2) + EPS)
                p.data.copy_(torch.from_numpy(new.reshape(p.shape)))
                self.state[p] = (quant(m.astype(np.float32), True), quant(v.astype(np.float32), False)) if eight else (m, v)


class Signed(GaLoreProjector):
    """Its singular vectors come by way of fp32, the truth's are fp64's; and LAPACK's signs, which moments from before meet, are any: the
    largest component is positive here."""
    def get_orthogonal_matrix(self, g, rank, type):
        u, _, v = torch.linalg.svd(g, full_matrices=False)
        p = v[:rank] if type == "right" else u[:, :rank].T
        p = p * p.gather(1, p.abs().argmax(1, keepdim=True)).sign()
        return p if type == "right" else p.T


def galore(m, groups):
    import galore_torch.adamw
    galore_torch.adamw.GaLoreProjector = Signed
    projected = [p for n, p in m.named_parameters() if ".self_attn." in n or ".mlp." in n]
    others = [dict(g, params=[p for p in g["params"] if not any(p is q for q in projected)]) for g in groups]
    return GaLoreAdamW([*others, {"params": projected, "weight_decay": DECAY, **GALORE}], lr=LR, betas=BETAS, eps=EPS, no_deprecation_warning=True)


def optimizer(m, groups, name, dtype):
    eight = name == "stories"
    if name == "galore":
        return galore(m, groups)
    tables = {p for x in m.modules() if isinstance(x, torch.nn.Embedding) for p in x.parameters()}
    if not eight:
        return torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, foreach=False, fused=False)
    if dtype == torch.float64:
        return Adam8([dict(g, lr=LR) for g in groups], tables)
    manager = bnb.optim.GlobalOptimManager.get_instance()
    for x in m.modules():
        if isinstance(x, torch.nn.Embedding):
            manager.register_module_override(x, "weight", {"optim_bits": 32})
    return bnb.optim.AdamW8bit(groups, lr=LR, betas=BETAS, eps=EPS)


def clean(n):
    return n.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", "")


def beside_adapter(m, model_dir):
    m = peft.get_peft_model(m, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"))
    adapter = load_file(os.path.join(model_dir, "adapter", "adapter_model.safetensors"))
    for n, p in m.named_parameters():
        if "lora_" in n:
            p.data.copy_(adapter["base_model.model." + clean(n)])
    return m.eval()


class Masters:
    """AdamW on fp32 copies of a bf16 model's weights, which follow them."""
    def __init__(self, groups, name, m):
        self.pairs = [(p, torch.nn.Parameter(p.detach().float())) for g in groups for p in g["params"]]
        of = {id(p): q for p, q in self.pairs}
        self.inner = optimizer(m, [dict(g, params=[of[id(p)] for p in g["params"]]) for g in groups], name, torch.float32)
        self.param_groups = self.inner.param_groups

    def step(self):
        for p, q in self.pairs:
            q.grad = p.grad.float()
        self.inner.step()
        for p, q in self.pairs:
            p.data.copy_(q.data)


def bf16_loss_and_grads(m, case, n_targets):
    m.zero_grad()
    total = 0.0
    for ids, mask in sequences(case):
        nll = torch.nn.functional.cross_entropy(m(ids[None]).logits[0].float()[:-1], ids[1:], reduction="none")
        loss = nll[mask[1:]].sum() / n_targets
        loss.backward()
        total += loss.item()
    return total


def run(model_dir, t, dtype, name):
    config = transformers.AutoConfig.from_pretrained(model_dir)
    (lift_to_fp64 if dtype == torch.float64 else lower_to_fp32)(config.model_type)
    m = transformers.AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager", dtype=dtype).eval()
    if name == "tables":
        m = beside_adapter(m, model_dir).to(dtype)
    params, out = [(clean(n), p) for n, p in m.named_parameters() if p.requires_grad], {}
    # transformers.Trainer.get_decay_parameter_names
    decay = {clean(n) for n in get_parameter_names(m, [torch.nn.LayerNorm], [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"])}
    assert all((n in decay) == (p.ndim == 2) for n, p in params)
    groups = [{"params": [p for n, p in params if n in decay], "weight_decay": DECAY}, {"params": [p for n, p in params if n not in decay], "weight_decay": 0.0}]
    half = dtype == torch.bfloat16
    opt = Masters(groups, name, m) if half else optimizer(m, groups, name, dtype)
    # the rates are transformers' own, of an optimiser without parameters to speak of
    clock = torch.optim.SGD([torch.zeros(1)], lr=LR)
    rates = transformers.get_cosine_schedule_with_warmup(clock, WARMUP, STEPS)
    losses, norms = [], []
    for s in range(STEPS):
        case = rows_of(t, [(s * BATCH + i) % len(LENS) for i in range(BATCH)])
        losses.append((bf16_loss_and_grads if half else loss_and_grads)(m, case, int(case["loss_mask"].sum())))
        for n, p in params:
            if s == STEPS - 1:
                out[f"grad.{n}"] = p.grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in params], CLIP, foreach=False).item())
        for g in opt.param_groups:
            g["lr"] = rates.get_last_lr()[0]
        opt.step()
        clock.step()
        rates.step()
    out["loss"], out["grad_norm"] = torch.tensor(losses, dtype=torch.float64), torch.tensor(norms, dtype=torch.float64)
    masters = {id(p): q for p, q in opt.pairs} if half else {}
    for n, p in params:
        out["final." + n] = masters.get(id(p), p).detach().clone()
    return out


def main():
    dest, stories = sys.argv[1:3]
    out, meta = {}, dict(VERSIONS, lr=LR, warmup=WARMUP, weight_decay=DECAY, clip=CLIP)
    for name, vocab in CASES.items():
        model = stories if vocab == 512 else os.path.join(dest, "llama" if name == "tables" else name)
        t = tokens(vocab)
        truth, f32 = (run(model, t, d, name) for d in (torch.float64, torch.float32))
        half = run(model, t, torch.bfloat16, name) if name != "galore" else {}
        for kind in ("loss", "grad_norm", "grad.", "final."):
            meta[f"{name}.bf16_{kind}"] = f"{max((away(half[k], v) for k, v in truth.items() if half and k.startswith(kind)), default=0):.3e}"
            meta[f"{name}.fp32_{kind}"] = f"{max(away(f32[k], v) for k, v in truth.items() if k.startswith(kind)):.3e}"
        for k, v in truth.items():
            if vocab != 512 or k in ("loss", "grad_norm") or k.startswith(KEPT):
                out[f"{name}.{k}"] = (v if v.ndim == 1 and "." not in k else v.float()).contiguous()
        save_file(t, os.path.join(dest, f"full.{name}.tokens.safetensors"), metadata={"vocab_size": str(vocab), "packing": "none", "max_len": "40"})
    save_file(out, os.path.join(dest, "full.safetensors"), metadata={k: str(v) for k, v in meta.items()})
    print(meta)


if __name__ == "__main__":
    main()
