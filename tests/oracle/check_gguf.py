#!/usr/bin/env python3
"""Lets llama.cpp (llama-cpp-python) and the gguf package open what gguf-export
wrote. Run from the root of the tree; check_peers.sh calls it.

usage: check_gguf.py BIN_DIR WORK_DIR

Every file type of the demo model loads and gives finite logits; F32 gives the
greedy text of transformers up to the first step whose two best logits are
closer than 1e-3; texts give transformers' token ids, with tokenizer.model and
without it; llama.cpp's own quantiser makes the same tensors and keys from our
F32 file, for the demo model and a random one of each family (llama.cpp built without
FMA, as check_peers.sh builds it: its reference code then rounds as it is written)."""
import ctypes
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import gguf
import llama_cpp
import numpy as np

BIN, WORK = sys.argv[1:3]
DEMO = "data/stories260K"
FILES = {"f32": 0, "f16": 1, "bf16": 32, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_s": 14, "q4_k_m": 15,
         "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}
PROMPTS = ["Once upon a time", "The dog was", "Lily had a red ball. One day", "\"Hello!\" said Tom.\nHe"]
TEXTS = PROMPTS + [" two  spaces ", "tabs\tand\n\nlines\n", "caf\u00e9 \u4f60\u597d \U0001f600", "", "a", "don't \u2581 stop", "x" * 200]
STEPS = 120
failures = 0


def report(good, what, detail=""):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + what + (": " + detail if detail else ""))


@llama_cpp.llama_log_callback
def no_log(level, text, data):
    pass


llama_cpp.llama_log_set(no_log, ctypes.c_void_p(0))


def export(model, kind, path):
    subprocess.check_call([os.path.join(BIN, "gguf-export"), "--model", model, "--type", kind, "-o", path])
    return path


def read(path):
    r = gguf.GGUFReader(path)
    keys = {k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.")}
    return keys, {t.name: (t.tensor_type.name, tuple(map(int, t.shape)), hashlib.sha256(np.ascontiguousarray(t.data).tobytes()).hexdigest())
                  for t in r.tensors}


def load(path, **more):
    # its default keeps keys and values in half floats, which is not what is compared here
    return llama_cpp.Llama(path, n_ctx=256, n_threads=2, verbose=False, type_k=0, type_v=0, **more)


def every_type():
    for kind in FILES:
        m = load(export(DEMO, kind, f"{WORK}/demo-{kind}.gguf"), logits_all=True)
        m.eval(m.tokenize(PROMPTS[0].encode()))
        s = np.array(m.scores[m.n_tokens - 1])
        report(np.isfinite(s).all() and s.std() > 0.1, f"llama.cpp loads {kind}", f"best token {int(s.argmax())}, logit {s.max():.4f}")


def greedy():
    """Both models are given the same tokens, so a near tie ends the text but hides nothing before it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    hf = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(DEMO)
    worst, steps, ties, texts = 0.0, 0, 0, {}
    m = load(f"{WORK}/demo-f32.gguf", logits_all=True)
    for p in PROMPTS:
        ids = m.tokenize(p.encode())
        want = tok(p).input_ids
        if ids != want:
            return report(False, "prompt tokens", f"{p!r}: {ids}, transformers {want}")
        m.reset()
        m.eval(ids)
        for _ in range(STEPS):
            with torch.no_grad():
                t = hf(torch.tensor([ids])).logits[0, -1].numpy()
            s = np.array(m.scores[m.n_tokens - 1])
            worst = max(worst, float(np.abs(s - t).max()))
            best = np.sort(t)[-2:]
            if best[1] - best[0] < 1e-3:
                ties += 1
                break
            if int(s.argmax()) != int(t.argmax()):
                return report(False, "greedy text", f"{p!r}, step {len(ids)}: {int(s.argmax())}, transformers {int(t.argmax())}")
            steps += 1
            ids.append(int(t.argmax()))
            if ids[-1] in (1, 2):
                break
            m.eval(ids[-1:])
        texts[p] = tok.decode(ids[len(want):], skip_special_tokens=True)
    report(worst < 1e-3, "F32 gives transformers' greedy text", f"{steps} steps, {ties} near ties, largest difference of a logit {worst:.2e}")
    lines = "".join(json.dumps({"prompt": p}) + "\n" for p in texts)
    out = subprocess.run([os.path.join(BIN, "lm-generate"), "--model", DEMO, "--raw", "--max-new", str(STEPS)], input=lines, text=True,
                         capture_output=True, check=True).stdout
    got = {p: json.loads(line)["response"] for p, line in zip(texts, out.splitlines(), strict=True)}
    bad = [p for p in texts if not got[p].strip().startswith(texts[p].strip())]
    report(not bad, "and so does lm-generate", f"{len(texts)} texts" if not bad else f"{got[bad[0]]!r}, llama.cpp {texts[bad[0]]!r}")


def tokens():
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(DEMO)
    bare = f"{WORK}/bare"
    shutil.copytree(DEMO, bare, dirs_exist_ok=True)
    os.chmod(bare, 0o755)
    os.path.exists(f"{bare}/tokenizer.model") and os.remove(f"{bare}/tokenizer.model")
    for name, path in (("tokenizer.model", f"{WORK}/demo-q8_0.gguf"), ("tokenizer.json alone", export(bare, "q8_0", f"{WORK}/bare.gguf"))):
        m = load(path, vocab_only=True)
        bad = [t for t in TEXTS if m.tokenize(t.encode(), add_bos=False, special=True) != tok(t, add_special_tokens=False).input_ids]
        report(not bad, f"token ids with {name}", f"{len(TEXTS)} texts" if not bad else repr(bad[0]))


def quantiser():
    models = {"demo": DEMO}
    init = os.path.join(BIN, "model-init")
    shapes = {"llama": ["--hidden", "256", "--ffn", "512", "--heads", "4", "--kv-heads", "2", "--layers", "9"],
              "qwen2": ["--hidden", "256", "--ffn", "768", "--heads", "8", "--kv-heads", "2", "--layers", "5", "--tied"],
              "mistral": ["--hidden", "96", "--ffn", "160", "--heads", "6", "--kv-heads", "3", "--layers", "4"]}
    for family, shape in shapes.items():
        d = f"{WORK}/{family}"
        subprocess.check_call([init, "--family", family, *shape, "--vocab", "512", "--dtype", "bfloat16", "--init-std", "0.05", "--tokenizer", DEMO,
                               "--force", "-o", d])
        models[family] = d
    for name, d in models.items():
        src, ref, wrong = export(d, "f32", f"{WORK}/src.gguf"), f"{WORK}/ref.gguf", []
        for kind, number in FILES.items():
            p = llama_cpp.llama_model_quantize_default_params()
            p.nthread, p.ftype = 2, number
            if llama_cpp.llama_model_quantize(src.encode(), ref.encode(), ctypes.byref(p)) != 0 or \
                    read(ref) != read(export(d, kind, f"{WORK}/ours.gguf")):
                wrong.append(kind)
        report(not wrong, f"llama_model_quantize makes the same tensors and keys, {name}", "all %d types" % len(FILES) if not wrong else str(wrong))


os.makedirs(WORK, exist_ok=True)
print("llama-cpp-python %s, gguf %s" % (importlib.metadata.version("llama-cpp-python"), importlib.metadata.version("gguf")))
every_type()
greedy()
tokens()
quantiser()
sys.exit(1 if failures else 0)
