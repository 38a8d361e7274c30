#!/usr/bin/env python3
"""Makes tests/conformance/model/: tiny random checkpoints of each family, and
what transformers + PEFT + torch compute from them, in fp64 (the truth).

usage: make_model.py OUT_DIR [ORACLE_RUNS_DIR]

ORACLE_RUNS_DIR holds sft_upper/ and shakespeare/ (batches.npz, oracle.json,
init_adapter/): replays of two real runs, repacked as one safetensors each.
The names in the files are listed in tests/conformance/model/README.md."""
import importlib, json, math, os, shutil, sys, types

import bitsandbytes as bnb
import numpy as np
import peft
import torch
import transformers
from bitsandbytes import functional as BF
from safetensors.torch import load_file, save_file

torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__,
            "peft": peft.__version__, "bitsandbytes": bnb.__version__}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA = 4, 8
STEPS, PEAK_LR, WARMUP = 10, 5e-3, 3
BETAS, EPS, DECAY, CLIP = (0.9, 0.999), 1e-8, 0.01, 1.0

CASES = {
    "llama": ("LlamaConfig", dict(hidden_size=40, intermediate_size=45, num_hidden_layers=2, num_attention_heads=5,
              num_key_value_heads=1, vocab_size=71, max_position_embeddings=64, rms_norm_eps=1e-5,
              tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "llama3": ("LlamaConfig", dict(hidden_size=42, intermediate_size=53, num_hidden_layers=2, num_attention_heads=6,
               num_key_value_heads=2, head_dim=10, vocab_size=79, max_position_embeddings=256, rms_norm_eps=1e-5,
               tie_word_embeddings=True, rope_parameters={"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32})),
    "qwen2": ("Qwen2Config", dict(hidden_size=36, intermediate_size=45, num_hidden_layers=2, num_attention_heads=6,
              num_key_value_heads=3, vocab_size=73, max_position_embeddings=64, rms_norm_eps=1e-6,
              use_sliding_window=False, tie_word_embeddings=True,
              rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    "mistral": ("MistralConfig", dict(hidden_size=40, intermediate_size=47, num_hidden_layers=2, num_attention_heads=9,
                num_key_value_heads=3, head_dim=6, vocab_size=71, max_position_embeddings=64, rms_norm_eps=1e-5,
                sliding_window=5, tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
}
SEQ_LENS = [13, 17, 9]
# Configurations are also met in the shape that transformers 4 wrote.
OLD_STYLE = {"llama3", "qwen2"}


class Fp64Torch(types.ModuleType):
    """`torch` as the model code sees it, with its deliberate fp32 islands
    (norms, softmax, rotary angles) lifted to fp64."""
    def __getattr__(self, name):
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


def lift_to_fp64(model_type):
    for name in (f"transformers.models.{model_type}.modeling_{model_type}", "transformers.modeling_rope_utils"):
        importlib.import_module(name).torch = Fp64Torch("torch")


def lower_to_fp32(model_type):
    for name in (f"transformers.models.{model_type}.modeling_{model_type}", "transformers.modeling_rope_utils"):
        importlib.import_module(name).torch = torch


def build(config, state, adapter, dtype):
    """Model with adapter at dtype; fp64 builds are fp64 everywhere."""
    (lift_to_fp64 if dtype == torch.float64 else lower_to_fp32)(config.model_type)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(m == "lm_head.weight" for m in missing), (missing, unexpected)
    model.tie_weights()
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, bias="none",
                           task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora).to(dtype)
    if adapter is not None:
        with torch.no_grad():
            for name, p in lora_params(model):
                p.copy_(adapter[name])
    model.eval()  # dropout is 0; eval is what makes that certain
    return model


def lora_params(model):
    out = []
    for name, p in model.named_parameters():
        if "lora_" in name:
            out.append((name.removeprefix("base_model.model.").replace(".default", ""), p))
    return sorted(out)


def sequences(case):
    n = len(case["seq_start"]) - 1
    for i in range(n):
        a, b = int(case["seq_start"][i]), int(case["seq_start"][i + 1])
        yield case["input_ids"][a:b].long(), case["loss_mask"][a:b].bool()


def token_nll(model, ids, hidden=False):
    out = model(input_ids=ids[None], use_cache=False, output_hidden_states=hidden)
    logits = out.logits[0]
    nll = torch.zeros(len(ids), dtype=logits.dtype)
    logp = torch.log_softmax(logits, dim=-1)
    nll = torch.cat([nll[:1], -logp[:-1].gather(1, ids[1:, None])[:, 0]])
    return logits, nll, out.hidden_states


def loss_and_grads(model, case, n_targets):
    """Sequence by sequence, never packed: the sum of target losses over all
    of them, divided by the number of targets."""
    model.zero_grad()
    total = 0.0
    for ids, mask in sequences(case):
        mask = mask.clone()
        mask[0] = False  # nothing predicts the first token
        loss = (token_nll(model, ids)[1] * mask).sum() / n_targets
        loss.backward()
        total += loss.item()
    return total


def forward(model, case, prefix, out):
    logits, nll, hidden = [], [], None
    with torch.no_grad():
        for ids, mask in sequences(case):
            l, n, h = token_nll(model, ids, hidden=True)
            m = mask.clone()
            m[0] = False
            logits.append(l)
            nll.append(n * m)
            hidden = [[x[0]] for x in h] if hidden is None else [a + [x[0]] for a, x in zip(hidden, h)]
    out[prefix + "logits"] = torch.cat(logits)
    out[prefix + "nll"] = torch.cat(nll)
    return [torch.cat(h) for h in hidden]


def quantise(state):
    """NF4 with double quantisation over every projection: what a 4-bit base
    computes with, dequantised to fp32."""
    out, codes = {}, {}
    for name, w in state.items():
        if name.split(".")[-2] not in TARGETS or not name.endswith(".weight"):
            out[name] = w
            continue
        q, s = BF.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
        out[name] = BF.dequantize_4bit(q, s)
        codes[name] = q.flatten()
    return out, codes


def window_is(model, width, layers):
    """Proves how many keys a query sees: after `layers` layers the first token
    reaches position layers * (width - 1) and no further."""
    ids = torch.arange(5, 5 + 20)
    with torch.no_grad():
        a = token_nll(model, ids)[0]
        ids2 = ids.clone()
        ids2[0] = 3
        d = (token_nll(model, ids2)[0] - a).abs().amax(dim=1)
    last = max(int(i) for i in d.nonzero().flatten())
    assert last == layers * (width - 1), (last, layers, width)


def rate(step):
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def train(model, case, n_targets, out, steps_prefix, final_prefix):
    params = lora_params(model)
    opt = torch.optim.AdamW([p for _, p in params], lr=0.0, betas=BETAS, eps=EPS, weight_decay=DECAY,
                            foreach=False, fused=False)
    losses, norms = [], []
    for s in range(STEPS):
        losses.append(loss_and_grads(model, case, n_targets))
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in params], CLIP, foreach=False).item())
        for g in opt.param_groups:
            g["lr"] = rate(s)
        opt.step()
    out[steps_prefix + "lr"] = torch.tensor([rate(s) for s in range(STEPS)], dtype=torch.float64)
    out[steps_prefix + "loss"] = torch.tensor(losses, dtype=torch.float64)
    out[steps_prefix + "grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    for name, p in params:
        out[final_prefix + name] = p.detach().clone()


def old_style_config(path):
    """The keys of transformers 4: rope_theta and rope_scaling beside each other."""
    with open(path) as f:
        c = json.load(f)
    rope = c.pop("rope_parameters")
    c["rope_theta"] = rope.pop("rope_theta")
    c["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    c["torch_dtype"] = c.pop("dtype")
    with open(path, "w") as f:
        json.dump(c, f, indent=2, sort_keys=True)
        f.write("\n")


def make_case(name, out_dir, seed):
    cls, kw = CASES[name]
    config = getattr(transformers, cls)(bos_token_id=1, eos_token_id=2, pad_token_id=None, attention_dropout=0.0, **kw)
    dest = os.path.join(out_dir, name)
    shutil.rmtree(dest, ignore_errors=True)
    g = torch.Generator().manual_seed(seed)
    lower_to_fp32(config.model_type)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for pname, p in sorted(model.named_parameters()):
            r = torch.randn(p.shape, generator=g)
            if "norm" in pname:
                p.copy_(1 + 0.2 * r)
            elif pname.endswith("bias"):
                p.copy_(0.3 * r)
            elif "embed" in pname or "lm_head" in pname:
                p.copy_(0.4 * r)
            else:
                p.copy_(r * (1.2 / math.sqrt(p.shape[1])))
    model.config.dtype = torch.float32
    model.save_pretrained(dest)
    if name in OLD_STYLE:
        old_style_config(os.path.join(dest, "config.json"))
    gen_config = os.path.join(dest, "generation_config.json")
    if os.path.exists(gen_config):
        os.remove(gen_config)
    state = load_file(os.path.join(dest, "model.safetensors"))
    # what was written is what a reader sees
    config = transformers.AutoConfig.from_pretrained(dest)
    again = transformers.AutoModelForCausalLM.from_pretrained(dest, attn_implementation="eager")
    probe = torch.arange(3, 20)
    with torch.no_grad():
        assert torch.equal(again(probe[None]).logits, model(probe[None]).logits)

    base = build(config, state, None, torch.float32)
    adapter = {}
    for pname, p in lora_params(base):
        r = torch.randn(p.shape, generator=g)
        adapter[pname] = r * (0.5 / math.sqrt(p.shape[1])) if "lora_A" in pname else 0.15 * r
    base = build(config, state, adapter, torch.float32)
    base.save_pretrained(os.path.join(dest, "adapter"))
    os.remove(os.path.join(dest, "adapter", "README.md"))
    fix = os.path.join(dest, "adapter", "adapter_config.json")
    with open(fix) as f:
        c = json.load(f)
    c["base_model_name_or_path"] = name
    c["target_modules"] = TARGETS
    with open(fix, "w") as f:
        json.dump(c, f, indent=2, sort_keys=True)
        f.write("\n")

    total = sum(SEQ_LENS)
    ids = torch.randint(3, config.vocab_size, (total,), generator=g, dtype=torch.int32)
    mask = (torch.rand(total, generator=g) < 0.6).to(torch.uint8)
    starts = np.concatenate([[0], np.cumsum(SEQ_LENS)])
    mask[torch.tensor(starts[:-1])] = 0
    case = {"input_ids": ids, "loss_mask": mask, "seq_start": torch.tensor(starts, dtype=torch.int64),
            "row_start": torch.tensor([0, total], dtype=torch.int64),
            "seq_record": torch.arange(len(SEQ_LENS), dtype=torch.int64)}
    n_targets = int(mask.sum())
    out = dict(case)
    out["n_targets"] = torch.tensor([n_targets], dtype=torch.int64)

    m64 = build(config, state, adapter, torch.float64)
    if getattr(config, "sliding_window", None) and name == "mistral":
        window_is(m64, config.sliding_window, config.num_hidden_layers)
    with m64.disable_adapter():
        forward(m64, case, "base.", out)
    for i, h in enumerate(forward(m64, case, "", out)):
        out[f"hidden.{i}"] = h
    out["loss"] = torch.tensor([loss_and_grads(m64, case, n_targets)], dtype=torch.float64)
    assert abs(out["nll"].sum().item() / n_targets - out["loss"].item()) < 1e-12
    for pname, p in lora_params(m64):
        out["grad." + pname] = p.grad.clone()
    # how far torch's own fp32 is from the truth: what a tolerance is argued from
    f32 = {}
    m32 = build(config, state, adapter, torch.float32)
    forward(m32, case, "", f32)
    loss_and_grads(m32, case, n_targets)
    d_logits = (f32["logits"].double() - out["logits"]).abs().max().item()
    d_grad = max(((p.grad.double() - out["grad." + n]).norm() / out["grad." + n].norm()).item()
                 for n, p in lora_params(m32))
    f32_train = {}
    train(m32, case, n_targets, f32_train, "step.", "final.")

    m64 = build(config, state, adapter, torch.float64)
    train(m64, case, n_targets, out, "step.", "final.")
    d_final = max((f32_train["final." + n].double() - p).abs().max().item() for n, p in lora_params(m64))

    qstate, codes = quantise(state)
    for cname, q in codes.items():
        if ".layers.0." in cname:
            out["nf4.codes." + cname.removesuffix(".weight")] = q
    q64 = build(config, qstate, adapter, torch.float64)
    forward(q64, case, "nf4.", out)
    out["nf4.loss"] = torch.tensor([loss_and_grads(q64, case, n_targets)], dtype=torch.float64)
    for pname, p in lora_params(q64):
        out["nf4.grad." + pname] = p.grad.clone()

    meta = dict(VERSIONS, case=name, seed=str(seed), rank=str(RANK), alpha=str(ALPHA),
                optimizer=json.dumps({"betas": BETAS, "eps": EPS, "weight_decay": DECAY, "clip": CLIP}),
                fp32_logits_max_abs=f"{d_logits:.3e}", fp32_grad_rel_l2=f"{d_grad:.3e}",
                fp32_final_max_abs=f"{d_final:.3e}")
    save_file({k: v.detach().contiguous().clone() for k, v in out.items()}, os.path.join(dest, "golden.safetensors"),
              metadata={k: str(v) for k, v in meta.items()})
    size = sum(os.path.getsize(os.path.join(r, f)) for r, _, fs in os.walk(dest) for f in fs)
    print(f"{name}: loss {out['loss'].item():.6f}, nf4 {out['nf4.loss'].item():.6f}, last step "
          f"{out['step.loss'][-1].item():.6f}, norms {out['step.grad_norm'][0]:.3f}..{out['step.grad_norm'][-1]:.3f}, "
          f"fp32 off by {d_logits:.1e} (logits) {d_grad:.1e} (gradients) {d_final:.1e} (final), {size} bytes")


def repack_run(name, runs_dir, out_dir):
    """A real run of some hundred steps, without its padding."""
    src = os.path.join(runs_dir, name)
    z = np.load(os.path.join(src, "batches.npz"))
    with open(os.path.join(src, "oracle.json")) as f:
        o = json.load(f)
    out = {}
    for part, short in (("train", "train"), ("heldout", "held")):
        ids, labels, attn = z[short + "_ids"], z[short + "_labels"], z[short + "_mask"].astype(bool)
        lens = attn.sum(1)
        for row, n in zip(attn, lens):
            assert row[:n].all() and not row[n:].any()  # padded at the end only
        assert ((labels == ids) | (labels == -100))[attn].all() and (labels[~attn] == -100).all()
        out[part + ".input_ids"] = torch.tensor(ids[attn].astype(np.int16))
        mask = (labels != -100)[attn].astype(np.uint8)
        starts = np.concatenate([[0], np.cumsum(lens)]).astype(np.int64)
        mask[starts[:-1]] = 0
        if not mask.all(where=np.isin(np.arange(len(mask)), starts[:-1], invert=True)):
            out[part + ".loss_mask"] = torch.tensor(mask)  # absent: every token but a sequence's first
        out[part + ".seq_start"] = torch.tensor(starts)
        n_targets = int(mask.sum())
    assert n_targets == o["heldout_tokens"]
    out["batch_index"] = torch.tensor(z["batch_index"].astype(np.int32))
    lr, n = o["lr"], o["steps"]
    out["step.lr"] = torch.tensor([lr * min(1, (s + 1) / 10) * (n - s) / n for s in range(n)], dtype=torch.float64)
    curve = np.array(o["train_loss_and_gradnorm"])
    out["step.loss"] = torch.tensor(curve[:, 0])
    out["step.grad_norm"] = torch.tensor(curve[:, 1])
    held = np.array(o["heldout_curve"])
    out["heldout.step"] = torch.tensor(held[:, 0].astype(np.int64))
    out["heldout.loss"] = torch.tensor(held[:, 1].astype(np.float64))
    init = load_file(os.path.join(src, "init_adapter", "adapter_model.safetensors"))
    for k, v in init.items():
        if "lora_A" in k:  # every lora_B starts at zero
            out["init." + k.removeprefix("base_model.model.")] = v
        else:
            assert not v.any()
    meta = {"versions": "torch 2.15.0, peft 0.21.2, transformers 5.23.0, one thread, fp32",
            "lora": json.dumps(o["lora"]), "optimizer": o["optimizer"],
            "prompt": o["prompt"], "greedy_before": o["greedy_before"], "greedy_after": o["greedy_after"]}
    path = os.path.join(out_dir, name + ".safetensors")
    save_file({k: v.contiguous() for k, v in out.items()}, path, metadata=meta)
    print(name, os.path.getsize(path), "bytes")


def main():
    out_dir = sys.argv[1]
    os.makedirs(out_dir, exist_ok=True)
    for i, name in enumerate(CASES):
        make_case(name, out_dir, 1000 + i)
    if len(sys.argv) > 2:
        for name in ("sft_upper", "shakespeare"):
            repack_run(name, sys.argv[2], out_dir)


if __name__ == "__main__":
    main()
