#!/usr/bin/env python3
"""Goldens of the tokeniser files other than tokenizer.json, each with its own library.

  make_kinds.py OUT_DIR FILE...     tiny vocabularies trained on FILEs, and kinds.jsonl; all packed with zstd

SentencePiece models (BPE, Unigram, characters; the settings that change what is encoded), tekken.json,
tiktoken ranks, and a tokenizer.json with a precompiled character map.
The goldens in the tree: sentencepiece 0.2.3, protobuf 7, tiktoken 0.14.0, mistral-common 1.13.1,
tokenizers 0.23.3, trained on libcommon/base/*.h and libcommon/text/*.h.
"""
import base64
import io
import json
import os
import random
import subprocess
import sys

import sentencepiece
import tiktoken
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WORDS = ("the quick brown fox Grüße straße naïve 漢字 かな カタカナ ﬁne ①② ½ Ａｂｃ 안녕 привет 🎉 👍🏽 e\u0301 foo_bar 1234 12 "
         "don't WE'LL \u1100\u1161 ｶﾞ ﷺ … \u200b \u3000 \u00a0 ▁x  \t \n \r\n \n\n <sep> <c> <s> </s> [INST] foo fo \ufffd 'ſ İ").split(" ")
MODELS = {
    "spm-bpe": dict(model_type="bpe"),
    "spm-bpe-bytes": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    "spm-bpe-user": dict(model_type="bpe", user_defined_symbols=["<sep>", "foo", "fo", "▁x", "  "], control_symbols=["<c>"], normalization_rule_name="nmt_nfkc_cf"),
    "spm-bpe-unused": dict(model_type="bpe", normalization_rule_name="nfkc", add_dummy_prefix=False),
    "spm-unigram": dict(model_type="unigram"),
    "spm-unigram-user": dict(model_type="unigram", byte_fallback=True, user_defined_symbols=["<sep>", "foo", "quick"], treat_whitespace_as_suffix=True, normalization_rule_name="identity"),
    "spm-char": dict(model_type="char", normalization_rule_name="identity"),
}
CL100K = (r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ODD = r"[a-z]+|\p{N}+$|[^\sa-z]"  # matches neither everything nor as the known ones do


def texts(rng, n):
    letters = [c for w in WORDS for c in w] + list("abcXYZ 0123  !?/._-")
    for _ in range(n):
        yield "".join(rng.choice(WORDS) + rng.choice(["", " ", "  "]) if rng.random() < .5 else rng.choice(letters) for _ in range(rng.choice([1, 2, 4, 12, 60])))


def spm(out, name, corpus, options):
    blob = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=blob, vocab_size=600 if options["model_type"] != "char" else 300,
                                             hard_vocab_limit=False, minloglevel=2, character_coverage=0.9995, **options)
    m = pb.ModelProto()
    m.ParseFromString(blob.getvalue())
    if name.endswith("unused"):
        rng = random.Random(3)
        for p in m.pieces:
            if p.type == 1 and len(p.piece) > 1 and rng.random() < .3:
                p.type = 5
            elif p.type == 1 and len(p.piece) == 1 and rng.random() < .1:  # a character that is only a part of pieces
                p.type, p.piece = 3, "<was-%d>" % ord(p.piece)
    path = os.path.join(out, name + ".model")
    with open(path, "wb") as f:
        f.write(m.SerializeToString())
    p = sentencepiece.SentencePieceProcessor(model_file=path)
    return m, lambda t: (p.encode(t), p.decode(p.encode(t)))


def ranks(corpus):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    of = {chr(b): b for b in printable}
    of.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)})
    tokens = [bytes(of[c] for c in s) for s, _ in sorted(t.get_vocab().items(), key=lambda x: x[1])]
    return [bytes([b]) for b in range(256)] + [x for x in tokens if len(x) > 1]


def main():
    out, corpus = sys.argv[1], [line.rstrip("\n") for f in sys.argv[2:] for line in open(f, encoding="utf-8")] + WORDS * 3
    corpus = [line for line in corpus if line.strip()]
    os.makedirs(out, exist_ok=True)
    engines, files = [], []
    for name, options in MODELS.items():
        m, run = spm(out, name, corpus, options)
        engines.append((name + ".model", "sentencepiece", run))
        if name == "spm-unigram":
            charsmap, pieces = m.normalizer_spec.precompiled_charsmap, [[p.piece, p.score] for p in m.pieces]
    tokens = ranks(corpus)
    for name, pattern in (("cl100k-tiny.tiktoken", CL100K),):
        with open(os.path.join(out, name), "w", encoding="ascii") as f:
            f.writelines("%s %d\n" % (base64.b64encode(x).decode(), i) for i, x in enumerate(tokens))
        e = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks={x: i for i, x in enumerate(tokens)}, special_tokens={})
        engines.append((name, "tiktoken", lambda t, e=e: (e.encode_ordinary(t), t)))
    for name, pattern in (("tekken-tiny.json", TEKKEN), ("tekken-odd.json", ODD)):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump({"config": {"pattern": pattern, "num_vocab_tokens": len(tokens), "default_vocab_size": len(tokens) + 40, "default_num_special_tokens": 50, "version": "v3"},
                       "vocab": [{"rank": i, "token_bytes": base64.b64encode(x).decode(), "token_str": None} for i, x in enumerate(tokens)]}, f, indent=0)
        e = Tekkenizer.from_file(os.path.join(out, name))
        engines.append((name, "mistral-common", lambda t, e=e: (e.encode(t, False, False), None)))
    t = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None,
         "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
                                                            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
         "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
         "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
         "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}}
    with open(os.path.join(out, "precompiled.json"), "w", encoding="utf-8") as f:
        json.dump(t, f, ensure_ascii=False)
    hf = Tokenizer.from_file(os.path.join(out, "precompiled.json"))
    rng = random.Random(11)
    with open(os.path.join(out, "kinds.jsonl"), "w", encoding="utf-8") as f:
        for name, engine, run in engines:
            for text in texts(rng, 120):
                ids, decoded = run(text)
                case = {"tokenizer": name, "engine": engine, "text": text, "ids": ids}
                if decoded is not None:
                    case["decoded"] = decoded
                f.write(json.dumps(case, ensure_ascii=False) + "\n")
        for text in texts(rng, 240):
            e = hf.encode(text, add_special_tokens=False)
            f.write(json.dumps({"tokenizer": "precompiled.json", "engine": "tokenizers", "text": text, "ids": e.ids,
                                "begin": [len(text[:o[0]].encode()) for o in e.offsets]}, ensure_ascii=False) + "\n")
    files = [name for name, _, _ in engines] + ["precompiled.json", "kinds.jsonl"]
    for name in files:
        subprocess.run(["zstd", "-19", "-q", "-f", "--rm", os.path.join(out, name)], check=True)


main()
