#!/usr/bin/env python3
"""Steps of training methods by PyTorch, transformers and PEFT on a GPU, for tests/bench/methods.sh.

usage: methods_peer.py METHOD [checkpoint]

METHOD: lora, dora, dpo, full, full8, galore. Llama-3.2-1B's shape with weights made at random, bf16, rank 16 on all seven
projections, 4 x 2048 tokens a step (DPO: two pairs of 2048, so that as many tokens go through the model), every position a target.
dpo is TRL's formula in a plain loop (its trainer adds its own time to this): one pass of the policy over both answers, one of the
reference, which is the model with its adapter off, and log-probabilities by selective log-softmax. full is torch's fused AdamW on
bf16 weights with fp32 masters (autocast), as TRL's SFTTrainer trains an fp32 model with bf16=True; full8 bitsandbytes' AdamW8bit on bf16
weights; galore galore-torch's GaLoreAdamW, rank 128. checkpoint: gradient checkpointing, TRL's default.
Prints: METHOD tokens/s, ms a step, MiB allocated at the peak, MiB of the device in use.
"""
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, SEQ, RANK = 4, 2048, 16


def base(dtype):
    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
                         head_dim=64, vocab_size=128256, tie_word_embeddings=True, rope_theta=500000.0, max_position_embeddings=8192)
    torch.manual_seed(0)
    with torch.device("cuda"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
        torch.set_default_dtype(before)
    model.config.use_cache = False
    return model


def adapted(dora):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(base(torch.bfloat16), LoraConfig(r=RANK, lora_alpha=16, use_dora=dora, task_type="CAUSAL_LM", target_modules=[
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))


def logps(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    labels = ids[:, 1:]
    # TRL's selective_log_softmax: row by row for 16-bit logits
    rows = [F.log_softmax(row, dim=-1).gather(-1, label.unsqueeze(-1)).squeeze(-1) for row, label in zip(logits, labels)]
    return torch.stack(rows).sum(-1)


def dpo_loss(model, ids):
    with torch.no_grad(), model.disable_adapter():
        ref = logps(model, ids)
    value = logps(model, ids)
    half = len(ids) // 2
    margin = (value[:half] - ref[:half]) - (value[half:] - ref[half:])
    return -F.logsigmoid(0.1 * margin).mean()


def galore(model):
    from galore_torch import GaLoreAdamW

    wide = [p for n, p in model.named_parameters() if p.ndim == 2 and ("mlp" in n or "attn" in n)]
    ids = {id(p) for p in wide}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return GaLoreAdamW([{"params": rest}, {"params": wide, "rank": 128, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}], lr=1e-5)


def optimizer(method, model):
    if method == "full8":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(model.parameters(), lr=1e-5)
    if method == "galore":
        return galore(model)
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


def main():
    method, checkpoint = sys.argv[1], "checkpoint" in sys.argv[2:]
    model = adapted(method == "dora") if method in ("lora", "dora", "dpo") else base(torch.float32 if method == "full" else torch.bfloat16)
    if checkpoint:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if method in ("lora", "dora", "dpo"):
            model.enable_input_require_grads()
    model.train()
    opt = optimizer(method, model)
    torch.manual_seed(1)
    times = []
    for step in range(8):
        ids = torch.randint(0, 128256, (BATCH, SEQ), device="cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=method not in ("full8", "galore")):
            loss = dpo_loss(model, ids) if method == "dpo" else model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    s = statistics.median(times[3:])
    free, total = torch.cuda.mem_get_info()
    print(f"{method}{' checkpointed' if checkpoint else ''}\t{BATCH * SEQ / s:.0f}\t{s * 1e3:.1f}\t{torch.cuda.max_memory_allocated() >> 20}\t{(total - free) >> 20}", flush=True)


main()
