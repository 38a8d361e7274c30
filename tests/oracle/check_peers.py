#!/usr/bin/env python3
"""usage: check_peers.py BIN WORK REPORT.md   (see check_peers.sh)

Our artefacts, opened by the libraries that people use: each check is one line
of the report, with the figure found and the bound. Exits 1 if one fails."""
import datetime, json, os, platform, re, struct, subprocess, sys

import numpy as np
import peft
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

BIN, WORK, REPORT = sys.argv[1:4]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDENS = os.path.join(ROOT, "tests/conformance/model")
DEMO = os.path.join(ROOT, "data/stories260K")
DTYPES = {"I32": np.int32, "I64": np.int64, "U8": np.uint8}
TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
rows = []
torch.set_num_threads(2)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def check(name, value, bound, unit=""):
    good = value <= bound
    rows.append((name, f"{value:.2e}{unit}", f"{bound:.0e}{unit}", "ok" if good else "FAIL"))
    print(f"  {'ok  ' if good else 'FAIL'} {name}: {value:.2e}, at most {bound:.0e}", flush=True)


def run(tool, *args, **kw):
    p = subprocess.run([os.path.join(BIN, tool), *map(str, args)], capture_output=True, text=True, **kw)
    if p.returncode:
        raise SystemExit(f"{tool} {' '.join(map(str, args))}: status {p.returncode}\n{p.stderr}")
    return p.stdout


def frames(path):
    """The token frames of a stream, or of one safetensors file."""
    with open(path, "rb") as f:
        while head := f.read(8):
            h = json.loads(f.read(struct.unpack("<Q", head)[0]))
            h.pop("__metadata__", None)
            data = f.read(max((v["data_offsets"][1] for v in h.values()), default=0))
            if h:
                yield {k: np.frombuffer(data[v["data_offsets"][0]:v["data_offsets"][1]], DTYPES[v["dtype"]]) for k, v in h.items()}


def sequences(path):
    for f in frames(path):
        for a, b in zip(f["seq_start"][:-1], f["seq_start"][1:]):
            mask = f["loss_mask"][a:b].astype(bool).copy()
            mask[0] = False
            yield torch.tensor(f["input_ids"][a:b].astype(np.int64)), torch.tensor(mask)


def mean_loss(model, path):
    total, n = 0.0, 0
    with torch.no_grad():
        for ids, mask in sequences(path):
            logp = torch.log_softmax(model(ids[None]).logits[0].double(), -1)
            total -= logp[:-1].gather(1, ids[1:, None])[:, 0][mask[1:]].sum().item()
            n += int(mask.sum())
    return total / n


def base_of(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()


def our_loss(model, tokens, adapter=None):
    out = run("qlora-train", "--eval-only", "--model", model, "--quant", "none", "--eval", tokens, *(["--adapter", adapter] if adapter else []))
    return json.loads(out)["loss"]


def relative(a, b):
    return abs(a - b) / abs(b)


def model_checks(name, model_dir, tokens, steps, *how):
    """Train, then: PEFT reads the adapter, transformers the merged model."""
    w = os.path.join(WORK, name)
    os.makedirs(w)
    check(f"{name}: base loss, ours against transformers", relative(our_loss(model_dir, tokens), mean_loss(base_of(model_dir), tokens)), 1e-5)
    adapter, merged = os.path.join(w, "adapter"), os.path.join(w, "merged")
    run("qlora-train", tokens, "--model", model_dir, "--quant", "none", "--rank", 4, "--alpha", 8, "--targets", TARGETS, "--batch", 2, "--accumulate", 1,
        "--max-steps", steps, "--lr", "5e-3", "--schedule", "constant", "-o", adapter, *how)
    tuned = peft.PeftModel.from_pretrained(base_of(model_dir), adapter).eval()
    loss = mean_loss(tuned, tokens)
    check(f"{name}: adapter in PEFT, loss against ours", relative(our_loss(model_dir, tokens, adapter), loss), 1e-5)
    run("lora-merge", "--model", model_dir, "--adapter", adapter, "-o", merged)
    after = base_of(merged)
    ids = next(iter(sequences(tokens)))[0]
    with torch.no_grad():
        a, b = after(ids[None]).logits, tuned(ids[None]).logits
    check(f"{name}: merged model in transformers, logits against PEFT", ((a - b).abs().max() / b.abs().max()).item(), 1e-5)
    folded = dict(tuned.merge_and_unload().named_parameters())
    ours = dict(after.named_parameters())
    check(f"{name}: merged weights against PEFT's merge", max(((ours[k] - v).abs().max() / v.abs().max()).item() for k, v in folded.items()), 1e-6)
    check(f"{name}: merged loss, ours against transformers", relative(our_loss(merged, tokens), mean_loss(after, tokens)), 1e-5)
    return adapter, tuned


def golden_tokens(case):
    g = load_file(os.path.join(GOLDENS, case, "golden.safetensors"))
    path = os.path.join(WORK, case + ".tokens.safetensors")
    vocab = json.load(open(os.path.join(GOLDENS, case, "config.json")))["vocab_size"]
    save_file({k: g[k] for k in ("input_ids", "loss_mask", "row_start", "seq_start", "seq_record")}, path,
              metadata={"vocab_size": str(vocab), "packing": "none", "max_len": "39"})
    return path


def chosen_checks(tokens):
    """Adapters on some projections alone: PEFT finds them, no more and no fewer, and the loss is ours."""
    for i, how in enumerate((["--layers", "1-2,4", "--rslora"], ["--targets", r"model\.layers\.(0|3)\.self_attn\.(q|k)_proj|.*\.2\.mlp\.up_proj"],
                             ["--dora", "--rslora", "--layers", "1-2,4", "--targets", "q_proj,v_proj,up_proj"])):
        adapter = os.path.join(WORK, f"chosen{i}")
        run("qlora-train", tokens, "--model", DEMO, "--quant", "none", "--rank", 4, "--max-steps", 10, "--lr", "5e-3", "-o", adapter, *how)
        tuned = peft.PeftModel.from_pretrained(base_of(DEMO), adapter).eval()
        here = {n.replace(".default", "").replace("_vector.weight", "_vector") for n, _ in tuned.named_parameters() if "lora_" in n}
        check(f"stories260K, {how[0]}: tensors that PEFT or the file has alone", len(here ^ set(load_file(os.path.join(adapter, "adapter_model.safetensors")))), 0)
        check(f"stories260K, {how[0]}: adapter in PEFT, loss against ours", relative(our_loss(DEMO, tokens, adapter), mean_loss(tuned, tokens)), 1e-5)


def greedy_checks(what, adapter, tuned, tok, fast):
    """Greedy text, up to the first near tie."""
    prompts = [json.loads(line)["instruction"] for line in open(os.path.join(ROOT, "data/quickstart/upper_heldout.jsonl"))][:8]
    path = os.path.join(WORK, "prompts.jsonl")
    with open(path, "w") as f:
        for p in prompts:
            f.write(json.dumps({"messages": [{"role": "user", "content": p}]}) + "\n")
    got = [json.loads(line)["response"] for line in run("lm-generate", "--model", DEMO, "--adapter", adapter, "--max-new", 48, path).splitlines()]
    bad = 0
    for p, mine in zip(prompts, got, strict=True):
        prompt = fast.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
        ids = tok.encode(prompt, add_special_tokens=False).ids
        n, cut = len(ids), None
        with torch.no_grad():
            while len(ids) < n + 48:
                top = tuned(torch.tensor([ids])).logits[0, -1].topk(2)
                if top.values[0] - top.values[1] < 1e-3:
                    cut = tok.decode(ids)[len(prompt.replace("<s>", "")):]
                    break
                ids.append(top.indices[0].item())
                if ids[-1] in (1, 2):
                    break
        full = tok.decode(ids, skip_special_tokens=True)
        mine_full = tok.decode(tok.encode(prompt, add_special_tokens=False).ids) + mine
        bad += not (mine_full.replace(" ", "").startswith(full.replace(" ", "")) if cut is not None else mine_full.replace(" ", "") == full.replace(" ", ""))
    check(f"stories260K: greedy texts with {what} that differ from PEFT's before a near tie", bad, 0)


def demo_checks():
    train = os.path.join(ROOT, "data/quickstart/upper_train.jsonl")
    text, tokens = os.path.join(WORK, "text.jsonl"), os.path.join(WORK, "tokens.lps")
    run("chat-template", "--model", DEMO, "-o", text, train)
    run("tokenize", "--model", DEMO, "-o", tokens, text)
    # the same records by transformers' template and tokenizers
    tok = tokenizers.Tokenizer.from_file(os.path.join(DEMO, "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=os.path.join(DEMO, "tokenizer.json"), bos_token="<s>", eos_token="</s>",
                                                chat_template=open(os.path.join(DEMO, "chat_template.jinja")).read())
    ours = [s.tolist() for s, _ in sequences(tokens)]
    different = 0
    for line, got in zip(open(train), ours, strict=True):
        r = json.loads(line)
        chat = [{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["output"]}]
        different += tok.encode(fast.apply_chat_template(chat, tokenize=False), add_special_tokens=False).ids != got
    check("stories260K: records whose template or tokens differ from transformers", different, 0)
    adapter, tuned = model_checks("stories260K", DEMO, tokens, 40)
    chosen_checks(tokens)
    greedy_checks("the adapter", adapter, tuned, tok, fast)
    adapter, tuned = model_checks("stories260K, DoRA", DEMO, tokens, 60, "--dora")
    greedy_checks("a DoRA adapter", adapter, tuned, tok, fast)


def preference_checks():
    """What the programs say of each answer, by DPO and as a reward model; PEFT says the same of the adapters that they wrote."""
    w = os.path.join(WORK, "preference")
    os.makedirs(w)
    tokens = os.path.join(w, "pairs.lps")
    with open(os.path.join(ROOT, "data/sets/dpo_prompt_chosen_rejected.jsonl")) as f:
        text = run("chat-template", "--model", DEMO, input="".join(f.readlines()[:12]))
    run("tokenize", "--model", DEMO, "-o", tokens, input=text)
    for method, task in (("dpo", None), ("reward", 1)):
        adapter, scores = os.path.join(w, method), os.path.join(w, method + ".jsonl")
        how = ("--model", DEMO, "--quant", "none", "--method", method)
        run("qlora-train", *how, "--lr", "3e-3", "--max-steps", 20, "-o", adapter, tokens)
        run("qlora-train", *how, "--adapter", adapter, "--eval", tokens, "--eval-only", "--scores", scores)
        ours = [json.loads(line) for line in open(scores)]
        base = transformers.AutoModelForSequenceClassification.from_pretrained(DEMO, num_labels=1, dtype=torch.float32) if task else base_of(DEMO)
        tuned, worst, far = peft.PeftModel.from_pretrained(base, adapter).eval(), 0.0, 0.0
        with torch.no_grad():
            for x, (ids, mask) in zip(ours, sequences(tokens), strict=True):
                if task:
                    worst = max(worst, abs(tuned(ids[None]).logits[0, 0].item() - x["score"]) / max(abs(y["score"]) for y in ours))
                    continue
                of = lambda m: torch.log_softmax(m(ids[None]).logits[0].double(), -1)[:-1].gather(1, ids[1:, None])[:, 0][mask[1:]].sum().item()
                worst = max(worst, abs(of(tuned) / x["logp"] - 1))
                with tuned.disable_adapter():
                    far = max(far, abs(of(tuned) / x["reference"] - 1))
        if task:
            check("stories260K: scores of a reward model, ours against PEFT's SEQ_CLS, by the largest", worst, 1e-5)
        else:
            check("stories260K: log-probabilities of answers after DPO, ours against PEFT", worst, 1e-5)
            check("stories260K: and those of the reference, PEFT's with the adapter off", far, 1e-5)


def template_checks():
    """Random templates, new ones every day, rendered by transformers and by us; and what is remembered of them, for other texts."""
    here, out = os.path.dirname(os.path.abspath(__file__)), os.path.join(WORK, "templates")
    seed = datetime.date.today().strftime("%Y%m%d")
    subprocess.run([sys.executable, os.path.join(here, "fuzz_templates.py"), seed, "10000", out], check=True, capture_output=True)
    p = subprocess.run([os.path.join(BIN, "../tests/conformance"), "templates", os.path.join(out, "template_cases.jsonl"), "--templates", os.path.join(out, "templates")],
                       capture_output=True, text=True)
    passed, failed = map(int, re.match(r"(\d+) passed, (\d+) failed", p.stdout.strip().split("\n")[-1]).groups())
    if failed:
        print(p.stdout)
    # about one in 4,000 turns a generator into text: Python gives an address, whose length shows even where it is not printed
    check(f"random templates (seed {seed}, {passed + failed} answers): differ from transformers", failed, 4)


def main():
    template_checks()
    for case in ("llama", "llama3", "qwen2", "mistral"):
        model_checks(case, os.path.join(GOLDENS, case), golden_tokens(case), 5)
    model_checks("qwen2, DoRA", os.path.join(GOLDENS, "qwen2"), golden_tokens("qwen2"), 5, "--dora")
    demo_checks()
    preference_checks()
    # random text through every tokenizer of the tree
    p = subprocess.run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_tokens.py"), BIN, os.path.join(WORK, "tokens")], capture_output=True, text=True)
    print(p.stdout + p.stderr[-2000:], end="")
    check("tokenizers that differ from their library on 3,000 random texts each", p.stdout.count("FAIL") + (p.returncode != 0 and "FAIL" not in p.stdout), 0)
    gguf = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_gguf.py")
    tail = ""
    status = 0
    if os.path.exists(gguf):
        p = subprocess.run([sys.executable, gguf, BIN, os.path.join(WORK, "gguf")], capture_output=True, text=True)
        print(p.stdout, end="")
        status = p.returncode
        if status:
            print(p.stderr[-2000:])
        tail = "\n## llama.cpp (check_gguf.py)\n\n```\n" + p.stdout.strip() + "\n```\n"
    failed = [r for r in rows if r[3] != "ok"]
    import bitsandbytes, safetensors  # noqa: E401 (versions only)
    with open(REPORT + ".tmp", "w") as f:
        f.write("# make check-peers: the last run\n\n")
        f.write(f"{datetime.date.today().isoformat()}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, transformers "
                f"{transformers.__version__}, peft {peft.__version__}, tokenizers {tokenizers.__version__}, safetensors {safetensors.__version__}. "
                f"{len(rows) - len(failed)} of {len(rows)} hold{'' if not status else '; check_gguf.py FAILED'}.\n\n")
        f.write("| check | found | bound | |\n| --- | --- | --- | --- |\n")
        f.writelines(f"| {a} | {b} | {c} | {d} |\n" for a, b, c, d in rows)
        f.write(tail)
    os.replace(REPORT + ".tmp", REPORT)
    print(f"{len(rows) - len(failed)} of {len(rows)} hold; written to {os.path.relpath(REPORT)}")
    return 1 if failed or status else 0


sys.exit(main())
