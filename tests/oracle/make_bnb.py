#!/usr/bin/env python3
"""Makes tests/conformance/model/bnb_*/: tiny random checkpoints that are in
bitsandbytes' 4-bit form already, as transformers writes them, and what
transformers computes from them.

usage: make_bnb.py OUT_DIR

CASE.16/: the 16-bit model that CASE was made from (of bnb_llama, in fp32, it is not kept in the tree).
CASE/golden.safetensors: `input_ids`, `bnb.logits` (F32: transformers' model in
4 bits, loaded again from the files, on the CPU, computing in fp32), `logits` and
`nll` (F64: the truth, from the weights as bitsandbytes dequantises them to fp32).
Metadata: `bnb_logits_max_abs`, how far the former lie from the latter;
`sha256 PATH`, of each quantised weight dequantised to fp32; `versions`.

bitsandbytes' product of fp32 activations (gemm_4bit) takes weights in fp32, as we do;
its dequantize_4bit rounds them to the type that the checkpoint was made from
(quant_state.dtype), which the script checks to be one rounding of the same numbers.
In eval() its CPU code packs weights anew for AVX-512 and rounds: hence train()."""
import hashlib, json, os, shutil, sys

import bitsandbytes as bnb
import torch
import transformers
from bitsandbytes import functional as BF
from safetensors.torch import save_file

from make_model import VERSIONS, lift_to_fp64, lower_to_fp32, token_nll

torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
# The last two have as many tokens as data/stories260K, whose tokenizer the tests lend them.
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CASES = {
    # double quantisation; 72 x 233 = 262 blocks and a short one: two blocks of the second level
    "bnb_llama": ("LlamaConfig", torch.float32, dict(hidden_size=72, intermediate_size=233, num_hidden_layers=2, num_attention_heads=6,
                  num_key_value_heads=2, vocab_size=71, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
                  rope_parameters=ROPE), dict(bnb_4bit_use_double_quant=True), "1GB"),
    # scales in fp32; some projections left in 16 bits, as "dynamic" checkpoints have them; biases; tied
    "bnb_qwen2": ("Qwen2Config", torch.bfloat16, dict(hidden_size=36, intermediate_size=45, num_hidden_layers=3, num_attention_heads=6,
                  num_key_value_heads=3, vocab_size=512, max_position_embeddings=512, rms_norm_eps=1e-6, use_sliding_window=False,
                  tie_word_embeddings=True, rope_parameters=ROPE),
                  dict(bnb_4bit_use_double_quant=False, llm_int8_skip_modules=["lm_head", "model.layers.1.mlp", "model.layers.0.self_attn.q_proj"]), "1GB"),
    # codes stored as bf16, shards that part a weight from its scales
    "bnb_storage": ("LlamaConfig", torch.bfloat16, dict(hidden_size=40, intermediate_size=44, num_hidden_layers=1, num_attention_heads=5,
                    num_key_value_heads=1, vocab_size=512, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
                    rope_parameters=ROPE), dict(bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage=torch.bfloat16), "6KB"),
}


def dequantised(model):
    """The state of a model in 4 bits, its weights in fp32 as bitsandbytes' formula
    has them before any rounding, and their hashes."""
    state, hashes = {}, {}
    for name, p in model.named_parameters():
        if not isinstance(p, bnb.nn.Params4bit):
            state[name] = p.detach().float()
            continue
        p.quant_state.dtype, was = torch.float32, p.quant_state.dtype
        w = BF.dequantize_4bit(p.data, p.quant_state)
        p.quant_state.dtype = was
        rounded = BF.dequantize_4bit(p.data, p.quant_state)
        assert rounded.dtype == was and torch.equal(w.to(was), rounded), name
        state[name] = w
        hashes[f"sha256 {name}"] = hashlib.sha256(w.contiguous().numpy().tobytes()).hexdigest()
    return state, hashes


def make(name, out_dir, seed):
    cls, dtype, shape, quant, shard = CASES[name]
    dest, plain = os.path.join(out_dir, name), os.path.join(out_dir, name + ".16")
    config = getattr(transformers, cls)(**shape)
    lower_to_fp32(config.model_type)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.1) + (p.dim() == 1))
    model.to(dtype).save_pretrained(plain)
    q = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, **quant)
    load = dict(attn_implementation="eager", device_map="cpu")
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=q, dtype=dtype, **load)
    shutil.rmtree(dest, ignore_errors=True)
    model.save_pretrained(dest, max_shard_size=shard)
    if os.path.exists(os.path.join(plain, "generation_config.json")):
        os.remove(os.path.join(plain, "generation_config.json"))

    model = transformers.AutoModelForCausalLM.from_pretrained(dest, **load)
    for p in model.parameters():  # fp32 activations: what is not quantised is widened, which is exact
        if not isinstance(p, bnb.nn.Params4bit):
            p.data = p.data.float()
    model.train()
    assert config.attention_dropout == 0
    ids = torch.randint(0, config.vocab_size, (29 if config.vocab_size < 100 else 11,))
    with torch.no_grad():
        got = token_nll(model, ids)[0]
    state, hashes = dequantised(model)
    lift_to_fp64(config.model_type)
    truth = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float64).eval()
    missing, unexpected = truth.load_state_dict(state, strict=False)
    assert not unexpected and all(m == "lm_head.weight" for m in missing), (missing, unexpected)
    truth.tie_weights()
    with torch.no_grad():
        logits, nll, _ = token_nll(truth, ids)
    off = (got.double() - logits).abs().max().item()
    save_file({"input_ids": ids.to(torch.int32), "bnb.logits": got.contiguous(), "logits": logits.contiguous(), "nll": nll.contiguous()},
              os.path.join(dest, "golden.safetensors"), metadata=dict(hashes, bnb_logits_max_abs=f"{off:.3e}", versions=json.dumps(VERSIONS)))
    if os.path.exists(os.path.join(dest, "generation_config.json")):
        os.remove(os.path.join(dest, "generation_config.json"))
    print(name, f"{len(hashes)} quantised, transformers off by {off:.1e} of {logits.abs().max().item():.1f}",
          sum(os.path.getsize(os.path.join(dest, f)) for f in os.listdir(dest)), "bytes")


if __name__ == "__main__":
    for i, case in enumerate(CASES):
        make(case, sys.argv[1], 4000 + i)
