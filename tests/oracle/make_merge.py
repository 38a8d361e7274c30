#!/usr/bin/env python3
"""Makes tests/unit/data/merge: a tiny random Llama, two PEFT adapters, what
PEFT's merge_and_unload gives in fp32, and the identities (model/source.c) of
the exact merges: fp64 sums in the order of model/merge.h, one rounding.

usage: make_merge.py OUT_DIR
"""
import hashlib, json, os, shutil, sys
import numpy as np
import peft, safetensors, torch, transformers
from safetensors.numpy import load_file, save_file

out = sys.argv[1]
torch.manual_seed(7)
cfg = transformers.LlamaConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3,
                               num_key_value_heads=1, head_dim=8, vocab_size=32, max_position_embeddings=64,
                               tie_word_embeddings=False, initializer_range=0.5)


def base():
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(cfg)


def adapter(name, r, alpha, targets, **kw):
    torch.manual_seed(len(targets))
    m = peft.get_peft_model(base(), peft.LoraConfig(r=r, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", **kw))
    for n, p in m.named_parameters():
        if "magnitude" in n:
            p.data *= 1 + 0.2 * torch.randn_like(p)
        elif "lora_" in n:
            torch.nn.init.normal_(p, std=0.1)
    d = os.path.join(out, name)
    m.save_pretrained(d)
    os.path.exists(d + "/README.md") and os.remove(d + "/README.md")
    c = json.load(open(d + "/adapter_config.json"))
    c["base_model_name_or_path"] = "tiny"
    c["target_modules"] = sorted(c["target_modules"])
    json.dump(c, open(d + "/adapter_config.json", "w"), indent=2, sort_keys=True)
    return m.merge_and_unload()


shutil.rmtree(out, ignore_errors=True)
os.makedirs(out)
base().save_pretrained(out + "/base")
os.path.exists(out + "/base/generation_config.json") and os.remove(out + "/base/generation_config.json")
merged = adapter("one", 3, 5, ["q_proj", "v_proj", "down_proj", "lm_head"], rank_pattern={"v_proj": 5}, alpha_pattern={"down_proj": 7})
save_file({k: v.detach().numpy() for k, v in merged.state_dict().items()}, out + "/peft_one.safetensors")
adapter("two", 2, 3, ["q_proj", "up_proj"], use_rslora=True)
turned = adapter("dora", 3, 5, ["k_proj", "o_proj", "down_proj"], use_dora=True)
save_file({k: v.detach().numpy() for k, v in turned.state_dict().items()}, out + "/peft_dora.safetensors")

W = load_file(out + "/base/model.safetensors")


def scales(name):
    """Module path to (A, B, scale), from the adapter's own files."""
    c = json.load(open(f"{out}/{name}/adapter_config.json"))
    t = load_file(f"{out}/{name}/adapter_model.safetensors")
    res = {}
    for k in t:
        if k.endswith("lora_A.weight"):
            path = k[len("base_model.model."):-len(".lora_A.weight")]
            leaf = path.split(".")[-1]
            r, alpha = c["rank_pattern"].get(leaf, c["r"]), c["alpha_pattern"].get(leaf, c["lora_alpha"])
            res[path] = (t[k].astype(np.float64), t[k.replace("lora_A", "lora_B")].astype(np.float64),
                         alpha / r ** 0.5 if c["use_rslora"] else alpha / r, t.get(k.replace("lora_A.weight", "lora_magnitude_vector")))
    return res


def narrow(v, bits, emin):
    """fp64 to so many bits of mantissa, ties to even, as fp64; nothing overflows here."""
    e = np.maximum(np.frexp(v)[1] - 1, emin)
    return np.ldexp(np.rint(np.ldexp(v, bits - 1 - e)), e - (bits - 1))


def factor(v, m):
    """m over each row's length, the squares in eight sums."""
    sums = np.zeros(v.shape[0])
    for i in range(8):
        lane = np.zeros(v.shape[0])
        for c in range(i, v.shape[1], 8):
            lane = lane + v[:, c] * v[:, c]
        sums = sums + lane
    return (m.astype(np.float64) / np.sqrt(sums))[:, None]


def merge(parts, dtype):
    res = {}
    for name, w in W.items():
        delta = np.zeros(w.shape)
        hit = False
        for adapters, weight in parts:
            m = adapters.get(name[:-len(".weight")])
            if m is None:
                continue
            hit = True
            a, b, scale, length = m
            s = np.zeros(w.shape)
            for k in range(a.shape[0]):
                s = s + b[:, k:k + 1] * a[k:k + 1, :]
            delta = delta + (scale * weight) * s
        v = w.astype(np.float64) + delta if hit else w.astype(np.float64)
        v = v * factor(v, length) if hit and length is not None else v
        if dtype == "F32":
            res[name] = v.astype(np.float32).tobytes()
        elif dtype == "F16":
            res[name] = narrow(v, 11, -14).astype(np.float16).tobytes()
        else:
            res[name] = (narrow(v, 8, -126).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return res


def identity(tensors, dtype):
    h = hashlib.sha256()
    for n in sorted(tensors, key=lambda s: s.encode()):
        h.update(n.encode() + b"\0" + dtype.encode() + b"\0" + ",".join(map(str, W[n].shape)).encode() + b"\0" +
                 hashlib.sha256(tensors[n]).hexdigest().encode() + b"\n")
    return "sha256:" + h.hexdigest()


one, two, dora = scales("one"), scales("two"), scales("dora")
gold = {"made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
                      "safetensors": safetensors.__version__, "numpy": np.__version__},
        "base": identity({k: v.tobytes() for k, v in W.items()}, "F32")}
for d in ("F32", "F16", "BF16"):
    gold["one_" + d] = identity(merge([(one, 1.0)], d), d)
    gold["dora_" + d] = identity(merge([(dora, 1.0)], d), d)
    gold["soup_" + d] = identity(merge([(one, 0.3), (two, 0.7)], d), d)
json.dump(gold, open(out + "/golden.json", "w"), indent=1)
for name, theirs in ((one, merged), (dora, turned)):
    exact = merge([(name, 1.0)], "F32")
    worst = max(float(np.abs(np.frombuffer(exact[k], np.float32).reshape(W[k].shape) - v.detach().numpy()).max()) for k, v in theirs.state_dict().items())
    print("largest difference from PEFT's fp32 merge:", worst)
