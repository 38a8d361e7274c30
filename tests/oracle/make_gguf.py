#!/usr/bin/env python3
"""Makes the goldens of the GGUF writer from llama.cpp as llama-cpp-python
ships it (built for plain x86-64: -DGGML_NATIVE=OFF and no AVX, AVX2, FMA, F16C,
BMI2, SSE4.2, so that its C reference code runs).

usage: make_gguf.py BIN_DIR WORK_DIR OUT_DIR

  quant_golden.tsv   block types: SHA-256 of ggml_quantize_chunk's bytes and of
                     their decoding, for 64 rows of each kind of values
  gguf_golden.tsv    whole models: SHA-256 over all tensors of what
                     llama_model_quantize makes of our F32 file
  gguf_types.tsv     which type each tensor gets, by family, depth and width

BIN_DIR holds gguf-export (it makes the F32 files that are quantised; the unit
test compares its other types with these goldens). The values and models are
made of integers by a counter, and tests/unit/gguf_gen.h makes the same in C.
"""
import ctypes
import hashlib
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import save_file

BIN, WORK, OUT = sys.argv[1:4]
TYPES = {"F16": 1, "BF16": 30, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
FILES = {"f32": 0, "f16": 1, "bf16": 32, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_s": 14, "q4_k_m": 15,
         "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}
HEAD = "# llama-cpp-python %s, gguf %s, numpy %s; tests/oracle/make_gguf.py\n" % (
    importlib.metadata.version("llama-cpp-python"), importlib.metadata.version("gguf"), np.__version__)
ROWS, COLS = 64, 256


# --- the counter: 64 bits for (seed, index), and an integer of about normal shape ---
def mix(seed, i):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) * np.uint64(1 << 32) + np.asarray(i, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def bell(u):
    m = np.uint64(0xFFFF)
    parts = [(u >> np.uint64(16 * k)) & m for k in range(4)]
    return sum(p.astype(np.int64) for p in parts) - 131070


def scaled(v, e):
    return np.ldexp(v.astype(np.float64), e).astype(np.float32)


def values(kind):
    r, c = np.meshgrid(np.arange(ROWS), np.arange(COLS), indexing="ij")
    u, w, g = mix(kind, r * COLS + c), mix(100 + kind, r), mix(200 + kind, r * 8 + c // 32)
    hit = (w & np.uint64(255)).astype(np.int64) == c
    zero = np.zeros((ROWS, COLS), np.float32)
    if kind == 0:
        return scaled(bell(u), -20)
    if kind == 1:
        return scaled(bell(u), -20 - ((u >> np.uint64(40)) & np.uint64(15)).astype(np.int64))
    if kind == 2:
        return zero
    if kind == 3:
        return -zero
    if kind == 4:
        return scaled(bell(w), -18)
    if kind == 5:
        return scaled(bell(g), -18)
    if kind == 6:
        return scaled(np.abs(bell(u)), -20)
    if kind == 7:
        return scaled(-np.abs(bell(u)) - 3 * (1 << 20), -20)
    if kind == 8:
        return np.where(hit, scaled(bell(w), -6), scaled(bell(u), -30))
    if kind == 9:
        return np.where(hit, scaled(bell(w), -16), zero)
    if kind == 10:
        return (u % np.uint64(7)).astype(np.float32) - np.float32(3)
    if kind == 11:
        return np.where(u >> np.uint64(60) == 0, scaled(bell(u), -20), zero)
    if kind == 12:
        return scaled(c * (w & np.uint64(63)).astype(np.int64) - 1000, -8)
    if kind == 13:
        return (u & np.uint64(0x807FFFFF)).astype(np.uint32).view(np.float32)
    if kind == 14:
        return scaled(bell(u), -20 - 2 * r)
    if kind == 15:
        return scaled(bell(u), r)
    b = (u & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return np.where(b & 0x7F800000 == 0x7F800000, b & np.uint32(0xBFFFFFFF), b).astype(np.uint32).view(np.float32)


N_KINDS = 17


def sha(b):
    return hashlib.sha256(b).hexdigest()


def quant_goldens():
    lib = os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so")
    ggml = ctypes.CDLL(lib)
    ggml.ggml_quantize_chunk.restype = ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                         ctypes.c_int64, ctypes.c_void_p]
    ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    ggml.ggml_validate_row_data.restype = ctypes.c_bool
    ggml.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    with open(os.path.join(OUT, "quant_golden.tsv"), "w") as f:
        f.write(HEAD + "# type\tkind\tvalid rows\tsha256 of blocks\tsha256 of their values (NaN as 7fc00000)\n")
        for name, t in TYPES.items():
            ggml.ggml_quantize_init(t)
            row = ggml.ggml_row_size(t, COLS)
            for kind in range(N_KINDS):
                x = np.ascontiguousarray(values(kind), np.float32)
                q, y = np.zeros(ROWS * row, np.uint8), np.zeros((ROWS, COLS), np.float32)
                ggml.ggml_quantize_chunk(t, x.ctypes.data, q.ctypes.data, 0, ROWS, COLS, None)
                valid = sum(ggml.ggml_validate_row_data(t, q.ctypes.data + r * row, row) for r in range(ROWS))
                if name in ("F16", "BF16"):
                    y = q.view(np.float16).astype(np.float32) if name == "F16" else (q.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
                else:
                    d = getattr(ggml, "dequantize_row_" + name.lower().replace("_k", "_K"))
                    d.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
                    d.restype = None
                    d(q.ctypes.data, y.ctypes.data, ROWS * COLS)
                bits = np.where(np.isnan(y), np.uint32(0x7FC00000), np.ascontiguousarray(y).view(np.uint32))
                f.write(f"{name}\t{kind}\t{valid}\t{sha(q)}\t{sha(np.ascontiguousarray(bits, np.uint32))}\n")


# --- models: the same as tests/unit/gguf_gen.h makes ---
#        name: family, hidden, ffn, heads, kv_heads, head_dim, layers, vocab, tied, attention bias, dtype
MODELS = {
    "wide": ("llama", 256, 512, 4, 2, 64, 9, 300, False, False, "f32"),
    "tied": ("qwen2", 256, 768, 8, 2, 32, 5, 300, True, True, "bf16"),
    "thirty-two": ("mistral", 96, 160, 6, 3, 16, 4, 300, False, False, "bf16"),
    "odd": ("llama", 60, 100, 5, 5, 12, 3, 301, True, True, "f16"),
    "mixed": ("llama", 256, 288, 4, 1, 32, 3, 300, False, True, "f32"),
}
ARCH = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "mistral": "MistralForCausalLM"}
TOKENIZER = {"model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": [],
                       "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, **{"<0x%02X>" % i: 3 + i for i in range(256)}}}}


def config(m):
    family, hidden, ffn, heads, kv, head_dim, layers, vocab, tied, bias, dtype = m
    c = {"architectures": [ARCH[family]], "model_type": family, "hidden_size": hidden, "intermediate_size": ffn,
         "num_attention_heads": heads, "num_key_value_heads": kv, "num_hidden_layers": layers, "vocab_size": vocab,
         "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied,
         "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "head_dim": head_dim}
    if family == "llama":
        c["attention_bias"] = bias
    return c


def tensors(m):
    """(name, shape) in the order that numbers them."""
    family, hidden, ffn, heads, kv, head_dim, layers, vocab, tied, bias, dtype = m
    yield "model.embed_tokens.weight", (vocab, hidden)
    for l in range(layers):
        p = f"model.layers.{l}."
        yield p + "input_layernorm.weight", (hidden,)
        for n, rows, cols in (("self_attn.q_proj", heads * head_dim, hidden), ("self_attn.k_proj", kv * head_dim, hidden),
                              ("self_attn.v_proj", kv * head_dim, hidden), ("self_attn.o_proj", hidden, heads * head_dim),
                              ("mlp.gate_proj", ffn, hidden), ("mlp.up_proj", ffn, hidden), ("mlp.down_proj", hidden, ffn)):
            yield p + n + ".weight", (rows, cols)
            if bias and "self_attn" in n and (family == "llama" or "o_proj" not in n):
                yield p + n + ".bias", (rows,)
        yield p + "post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocab, hidden)


def weights(k, shape, dtype):
    x = scaled(bell(mix(1000 + k, np.arange(int(np.prod(shape))))), -21).reshape(shape)
    if dtype == "f16":
        return x.astype(np.float16)
    return x


def write_model(name, m):
    d = os.path.join(WORK, name)
    os.makedirs(d, exist_ok=True)
    data = {n: weights(k, s, m[10]) for k, (n, s) in enumerate(tensors(m))}
    if m[10] == "bf16":
        import torch
        from safetensors.torch import save_file as save_torch
        save_torch({n: torch.from_numpy(v).to(torch.bfloat16) for n, v in data.items()}, os.path.join(d, "model.safetensors"))
    else:
        save_file(data, os.path.join(d, "model.safetensors"))
    json.dump(config(m), open(os.path.join(d, "config.json"), "w"))
    json.dump(TOKENIZER, open(os.path.join(d, "tokenizer.json"), "w"))
    return d


def read_tensors(path):
    return [(t.name, t.tensor_type.name, np.ascontiguousarray(t.data).tobytes()) for t in gguf.GGUFReader(path).tensors]


def quantise(src, dst, ftype):
    p = llama_cpp.llama_model_quantize_default_params()
    p.nthread, p.ftype = 2, ftype
    assert llama_cpp.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(p)) == 0, (src, ftype)


def model_goldens():
    with open(os.path.join(OUT, "gguf_golden.tsv"), "w") as f:
        f.write(HEAD + "# model\tfile type\ttensors by type\tsha256 of name, 0, type, 0, data of each tensor, by name\n")
        for name, m in MODELS.items():
            d = write_model(name, m)
            src, dst = os.path.join(d, "f32.gguf"), os.path.join(d, "ref.gguf")
            subprocess.check_call([os.path.join(BIN, "gguf-export"), "--model", d, "--type", "f32", "-o", src])
            for ft, n in FILES.items():
                quantise(src, dst, n)
                h, count = hashlib.sha256(), {}
                for t, kind, data in sorted(read_tensors(dst)):
                    count[kind] = count.get(kind, 0) + 1
                    h.update(t.encode() + b"\0" + kind.encode() + b"\0" + data)
                f.write(f"{name}\t{ft}\t{','.join(f'{k}:{v}' for k, v in sorted(count.items()))}\t{h.hexdigest()}\n")


# --- types alone: all weights zero, so depth costs little ---
SHAPES = [("llama", 80, 4, 1, 256, 256, False), ("llama", 80, 2, 2, 256, 256, False), ("qwen2", 80, 2, 2, 256, 256, False),
          ("llama", 32, 4, 1, 256, 512, False), ("llama", 1, 2, 1, 256, 256, True), ("qwen2", 28, 4, 2, 256, 288, True),
          ("llama", 23, 2, 1, 64, 172, False), ("llama", 7, 2, 1, 64, 100, True), ("llama", 16, 2, 1, 320, 256, False)]


def zero_model(path, arch, layers, heads, kv, hidden, ffn, tied):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers), w.add_context_length(128), w.add_embedding_length(hidden), w.add_feed_forward_length(ffn)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(hidden // heads)
    w.add_vocab_size(32)
    w.add_tokenizer_model("none")
    add = lambda n, *s: w.add_tensor(n, np.zeros(s, np.float32))
    head = hidden // heads
    add("token_embd.weight", 32, hidden), add("output_norm.weight", hidden)
    if not tied:
        add("output.weight", 32, hidden)
    for l in range(layers):
        for n, *s in (("attn_norm", hidden), ("ffn_norm", hidden), ("attn_q", heads * head, hidden), ("attn_k", kv * head, hidden),
                      ("attn_v", kv * head, hidden), ("attn_output", hidden, heads * head), ("ffn_gate", ffn, hidden),
                      ("ffn_up", ffn, hidden), ("ffn_down", hidden, ffn)):
            add(f"blk.{l}.{n}.weight", *s)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def type_goldens():
    src, dst = os.path.join(WORK, "zero.gguf"), os.path.join(WORK, "zeroq.gguf")
    with open(os.path.join(OUT, "gguf_types.tsv"), "w") as f:
        f.write(HEAD + "# family\tlayers\theads\tkv heads\thidden\tffn\ttied\tfile type\tembedding\toutput\tq,k,o,gate,up of every layer"
                       "\tv of each layer, in runs\tdown of each layer, in runs\n")
        for s in SHAPES:
            zero_model(src, *s)
            for ft, n in FILES.items():
                quantise(src, dst, n)
                t = {name: kind for name, kind, _ in read_tensors(dst)}
                same = {t[f"blk.{l}.{p}.weight"] for l in range(s[1]) for p in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up")}
                assert len(same) == 1, same
                runs = lambda p: ",".join(f"{k}*{len(list(g))}" for k, g in itertools.groupby(t[f"blk.{l}.{p}.weight"] for l in range(s[1])))
                f.write("\t".join([*(str(int(v)) if not isinstance(v, str) else v for v in s), ft, t["token_embd.weight"],
                                   t.get("output.weight", "-"), same.pop(), runs("attn_v"), runs("ffn_down")]) + "\n")


os.makedirs(WORK, exist_ok=True)
os.makedirs(OUT, exist_ok=True)
quant_goldens()
model_goldens()
type_goldens()
