#!/usr/bin/env python3
"""Makes nf4.safetensors: NF4 with double quantisation as bitsandbytes does it
on the CPU, on easy and awkward tensors.

usage: make_nf4.py OUT_FILE

The rules found in 0.50.2 (csrc/cpu_ops.cpp, backends/default/ops.py), all of
which the script checks against the library on every case:
- first level: blocks of 64 in row-major order. absmax in fp32. A whole block:
  v = clamp(x * (1 / max(absmax, 1e-38))), absmax stored as found. A last, short
  block: absmax is max(absmax, 1e-38) and stored so; v = clamp(x / absmax).
  code = number of midpoints below v: a tie takes the lower code. Element 0 of
  a byte is its high nibble; an odd end is padded with the code of 0, which is 7.
- second level: d = absmax - offset, blocks of 256 with scale s = max|d|; the
  code of d * (1 / s) comes from a table of 65,536 equal steps of [-1, 1]
  (index = trunc((v + 1) * 0.5 * 65535 + 0.5), entry = nearest of the dynamic
  map to -1 + 2 * index / 65535, ties down). A block with s = 0 has codes 0.
- dequantised absmax = map[code] * s + offset, in fp32, two roundings."""
import sys

import bitsandbytes as bnb
import numpy as np
import torch
from bitsandbytes import functional as BF
from safetensors.torch import save_file

F = np.float32
NF4 = BF.get_4bit_type("nf4", device="cpu").numpy().astype(F)
DYN = BF.create_dynamic_map(True).numpy().astype(F)
UDYN = BF.create_dynamic_map(False).numpy().astype(F)


def midpoints(code):
    return ((code[:-1] + code[1:]) / F(2)).astype(F)


def table(code):
    i = np.arange(65536)
    v = (F(-1) + (F(2) * i.astype(F)) / F(65535)).astype(F)
    return np.searchsorted(midpoints(code), v, side="left").astype(np.uint8)


def second_level(d):
    lut, codes, scales = table(DYN), [], []
    for i in range(0, len(d), 256):
        b = d[i:i + 256]
        s = np.abs(b).max()
        scales.append(s)
        if s == 0:
            codes.append(np.zeros(len(b), np.uint8))
            continue
        v = np.clip((b * (F(1) / s)).astype(F), F(-1), F(1))
        codes.append(lut[(((v + F(1)) * F(0.5)).astype(F) * F(65535) + F(0.5)).astype(np.int64)])
    return np.concatenate(codes), np.array(scales, F)


def first_level(x):
    codes, scales = [], []
    for i in range(0, len(x), 64):
        b = x[i:i + 64]
        am = F(np.abs(b).max())
        floor = max(am, F(1e-38))
        if len(b) == 64:
            v = (b * (F(1) / floor)).astype(F)
        else:
            am = floor
            v = (b / am).astype(F)
        scales.append(am)
        codes.append(np.searchsorted(midpoints(NF4), np.clip(v, F(-1), F(1)), side="left").astype(np.uint8))
    codes = np.concatenate(codes)
    if len(codes) % 2:
        codes = np.append(codes, np.uint8(7))
    return (codes[::2] << 4) | codes[1::2], np.array(scales, F)


def cases():
    g = torch.Generator().manual_seed(20)
    r = lambda *s: torch.randn(*s, generator=g)
    yield "plain", r(61, 96) * 0.05                      # rows are no multiple of 64
    yield "odd_tail", r(7, 13)                           # 91 elements: a short block, an odd end
    yield "short", r(1, 5)
    yield "one", torch.tensor([[-0.25]])
    wide = r(131, 257) * torch.exp(r(131, 1))            # 527 blocks: three blocks of the second level
    yield "wide_bf16", wide.to(torch.bfloat16)
    yield "fp16", (r(40, 45) * 0.02).to(torch.float16)
    yield "zeros", torch.zeros(5, 64)
    yield "zero_tail", torch.zeros(3, 30)
    z = r(16, 32)
    z[4:8] = 0                                           # zero blocks among others
    yield "zero_blocks", z
    yield "constant", torch.full((9, 64), 0.3)
    yield "negative", torch.full((3, 33), -7.5)
    yield "huge", r(4, 64) * 1e37
    yield "tiny", r(5, 30) * 1e-37
    yield "denormal", r(5, 30) * 1e-41
    yield "outlier", torch.cat([r(3, 64) * 1e-3, torch.tensor([[1e4] + [1e-3] * 63])])
    m = torch.tensor(midpoints(NF4))
    tie = torch.zeros(3, 64)
    tie[:, 0] = 1
    tie[0, 1:16] = m                                     # exactly between two codes
    tie[1, 1:16] = torch.nextafter(m, torch.tensor(2.0))
    tie[2, 1:16] = torch.nextafter(m, torch.tensor(-2.0))
    yield "ties", tie


def main():
    out = {"nf4_map": torch.tensor(NF4), "dynamic_map": torch.tensor(DYN), "dynamic_map_unsigned": torch.tensor(UDYN)}
    for name, w in cases():
        q1, s1 = BF.quantize_4bit(w, blocksize=64, compress_statistics=False, quant_type="nf4")
        q, s = BF.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
        assert torch.equal(q1, q)
        my_q, my_s = first_level(w.float().numpy().ravel())
        assert np.array_equal(my_q, q.numpy().ravel()), name
        assert np.array_equal(my_s, s1.absmax.numpy()), name
        # the offset of lorapipe: fp64 mean, one rounding; within 2 ulp of the library's
        offset = F(s1.absmax.numpy().astype(np.float64).mean())
        ulp = np.spacing(np.abs(offset))
        assert abs(float(offset) - float(s.offset)) <= 2 * ulp, (name, offset, s.offset)
        for given, suffix in ((F(s.offset), "_bnb"), (offset, "")):
            d = (s1.absmax.numpy() - given).astype(F)
            a8, st = BF.quantize_blockwise(torch.tensor(d), blocksize=256)
            my8, my2 = second_level(d)
            assert np.array_equal(my8, a8.numpy()) and np.array_equal(my2, st.absmax.numpy()), name
            if suffix:
                assert torch.equal(a8, s.absmax) and torch.equal(st.absmax, s.state2.absmax), name
            out[f"{name}.offset{suffix}"] = torch.tensor([given])
            out[f"{name}.absmax8{suffix}"] = a8.clone()
            out[f"{name}.absmax2{suffix}"] = st.absmax.clone()
        dq = BF.dequantize_4bit(q, s)
        am = (DYN[s.absmax.numpy()] * np.repeat(s.state2.absmax.numpy(), 256)[:len(s.absmax)]).astype(F) + F(s.offset)
        nib = np.stack([my_q >> 4, my_q & 15], 1).ravel()[:w.numel()]
        mine = (NF4[nib] * np.repeat(am, 64)[:w.numel()]).astype(F)
        assert torch.equal(torch.tensor(mine).to(w.dtype).reshape(w.shape), dq), name
        out[f"{name}.w"] = w
        out[f"{name}.codes"] = q.flatten()
        out[f"{name}.absmax"] = s1.absmax
        out[f"{name}.dequant_bnb"] = dq
    save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1],
              metadata={"bitsandbytes": bnb.__version__, "torch": torch.__version__, "blocksize": "64", "nested_blocksize": "256"})


if __name__ == "__main__":
    main()
