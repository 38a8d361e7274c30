#!/usr/bin/env python3
"""usage: tokenize_peer.py gigatoken|hf TOKENIZER CORPUS.jsonl THREADS [IDS OURS.lps]

A reference encoder over the texts of a corpus, in a fresh process. gigatoken:
each of its two modes in a process of its own (batch: a list of strings; files:
JSONL by itself); prints the better mode's MB/s of wall time and of processor
time, encoding alone, then seconds of processor time for loading. With IDS, the
ids of every sequence are compared with those of OURS, and the number that
differ is printed as well."""
import json, os, struct, subprocess, sys, time

kind, tokenizer, corpus, threads = sys.argv[1:5]
os.environ["RAYON_NUM_THREADS"] = threads
os.environ["TOKENIZERS_PARALLELISM"] = "false" if threads == "1" else "true"


def ours(path):
    """Every sequence's ids, in order."""
    import numpy as np
    with open(path, "rb") as f:
        while head := f.read(8):
            h = json.loads(f.read(struct.unpack("<Q", head)[0]))
            h.pop("__metadata__", None)
            data = f.read(max((v["data_offsets"][1] for v in h.values()), default=0))
            if not h:
                continue
            at = lambda k, t: np.frombuffer(data[h[k]["data_offsets"][0]:h[k]["data_offsets"][1]], t)
            ids, starts = at("input_ids", np.int32), at("seq_start", np.int64)
            for a, b in zip(starts[:-1], starts[1:]):
                yield ids[a:b]


def differ(theirs, path):
    import numpy as np
    mine = list(ours(path))
    return abs(len(mine) - len(theirs)) + sum(not np.array_equal(a, np.asarray(b, dtype=np.int64)) for a, b in zip(mine, theirs))


def texts():
    with open(corpus, encoding="utf-8") as f:
        return [json.loads(line)["text"] for line in f]


def load():
    if kind == "hf":
        from tokenizers import Tokenizer
        return Tokenizer.from_file(tokenizer)
    import gigatoken
    if tokenizer.endswith(".model"):
        return gigatoken.Tokenizer.from_sentencepiece(tokenizer)
    return gigatoken.Tokenizer.from_tiktoken(tokenizer) if tokenizer.endswith(".tiktoken") else gigatoken.Tokenizer(tokenizer)


def measure(mode):
    if kind == "hf":
        import tokenizers
    else:
        import gigatoken
    c = time.process_time()
    t = load()
    loading = time.process_time() - c
    if mode == "batch":
        batch = texts()
        size = sum(len(x.encode()) for x in batch)
    else:
        batch, size = None, os.path.getsize(corpus)
    w, c = time.perf_counter(), time.process_time()
    if kind == "hf":
        out = [x.ids for x in t.encode_batch(batch, add_special_tokens=False)]
    elif batch is not None:
        out = t.encode_batch(batch)
    else:
        out = t.encode_files(gigatoken.JsonlFileSource([corpus], field="text"))
    w, c = time.perf_counter() - w, time.process_time() - c
    n = differ(out.to_list() if kind != "hf" else out, sys.argv[6]) if len(sys.argv) > 6 and mode == "batch" else -1
    return size / 1e6 / w, size / 1e6 / c, loading, n


if os.environ.get("LP_PEER_MODE"):
    print(*measure(os.environ["LP_PEER_MODE"]))
    sys.exit()
got = []
for mode in ("batch",) if kind == "hf" else ("batch", "files"):
    p = subprocess.run([sys.executable, *sys.argv], env={**os.environ, "LP_PEER_MODE": mode}, capture_output=True, text=True)
    if p.returncode:
        sys.exit(p.stderr[-800:])
    got.append([float(x) for x in p.stdout.split()])
print("%.1f %.1f %.3f %d" % (max(g[0] for g in got), max(g[1] for g in got), min(g[2] for g in got), max(g[3] for g in got)))
