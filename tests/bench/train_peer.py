#!/usr/bin/env python3
"""The same LoRA step as bench_train, by PyTorch + PEFT on the same threads.

usage: train_peer.py make MODEL_DIR ADAPTER_DIR     an adapter whose B is not zero
       train_peer.py run THREADS MODEL_DIR ADAPTER_DIR GRADS.safetensors BATCH SEQ STEPS

run prints tokens per second of each step after one warm-up; on stderr the largest
relative L2 difference of a gradient from those in GRADS (made by bench_train)."""
import sys, time, warnings

warnings.filterwarnings("ignore")
import peft
import torch
import transformers
from safetensors.torch import load_file

TARGETS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()


def base(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def make(model_dir, out):
    lora = peft.LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base(model_dir), lora)
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.01)
    model.save_pretrained(out)


def run(threads, model_dir, adapter_dir, grads_path, batch, seq, steps):
    torch.set_num_threads(threads)
    golden = load_file(grads_path)
    model = peft.PeftModel.from_pretrained(base(model_dir), adapter_dir, is_trainable=True)
    ids = golden["input_ids"].long().reshape(batch, seq)
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0)
    for step in range(steps + 1):
        begin = time.perf_counter()
        opt.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if step == 0:
            worst = 0.0
            for name, p in model.named_parameters():
                if p.requires_grad:
                    want = golden[name.removeprefix("base_model.model.").replace(".default", "")]
                    worst = max(worst, ((p.grad - want).norm() / p.grad.norm()).item())
            print(f"largest relative difference of a gradient: {worst:.2e}", file=sys.stderr)
        opt.step()
        took = time.perf_counter() - begin
        if step:
            print(f"{batch * seq / took:.2f}")
        print(f"step {step}: loss {loss.item():.6f}, {took:.3f} s", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:4])
    else:
        run(int(sys.argv[2]), *sys.argv[3:6], *map(int, sys.argv[6:9]))
