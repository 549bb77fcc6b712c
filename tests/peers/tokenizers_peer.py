#!/usr/bin/env python3
"""Our tokenizer against the `tokenizers` package: 100,000 random Unicode strings per family, both ways.

    python3 tests/peers/tokenizers_peer.py BUILD_FOLDER [--strings N] [--family NAME]...

The vocabularies are those of the shared assets (FEDLLM_ASSETS, default ../shared/assets). Where an asset is only a
vocabulary with merges, or a family shares another's vocabulary, tokenizer.json is put together here as that family's
own looks. Every code point that is assigned or near one comes too. Every string is encoded with the special tokens of the template, its ids decoded, and as many random ids.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

from strings import every_code_point, strings

ASSETS = pathlib.Path(os.environ.get("FEDLLM_ASSETS", "../shared/assets"))
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"


def asset(path):
    return json.loads((ASSETS / path).read_text(encoding="utf-8"))


def added(id, content, **flags):
    base = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True}
    return {**base, **flags}


def template(bos, id):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}}}


def byte_level(vocab, merges, digits, normalizer, tokens, post=None, ignore_merges=False):
    """What Llama 3 and Qwen files look like: split by a regular expression, then bytes as characters."""
    lines = (ASSETS / merges).read_text(encoding="utf-8").split("\n")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": HEAD + digits + TAIL}, "behavior": "Isolated", "invert": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": {"type": "Sequence", "processors": [level, post]} if post else level, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": ignore_merges, "vocab": asset(vocab),
                      "merges": [line for line in lines if line and not line.startswith("#version")]}}


def llama3():
    names = {128000: "<|begin_of_text|>", 128001: "<|end_of_text|>", 128006: "<|start_header_id|>",
             128007: "<|end_header_id|>", 128008: "<|eom_id|>", 128009: "<|eot_id|>", 128010: "<|python_tag|>"}
    tokens = [added(id, names.get(id, f"<|reserved_special_token_{id}|>")) for id in range(128000, 128256)]
    return byte_level("tokenizers/llama3/encoder.json", "tokenizers/llama3/merges.txt", r"\p{N}{1,3}", None, tokens,
                      template("<|begin_of_text|>", 128000), ignore_merges=True)


def qwen(more=()):
    names = asset("tokenizers/qwen2.5/added_tokens.json")
    plain = ("<tool_call>", "</tool_call>", "<|fim_", "<|repo_name", "<|file_sep")
    tokens = [added(id, name, special=not name.startswith(plain)) for name, id in sorted(names.items(), key=lambda t: t[1])]
    tokens += [added(id, name, special=False) for name, id in more]
    return byte_level("tokenizers/qwen2.5/vocab.json", "tokenizers/qwen2.5/merges.txt", r"\p{N}", {"type": "NFC"}, tokens)


def qwen3():
    return qwen([("<tool_response>", 151665), ("</tool_response>", 151666), ("<think>", 151667), ("</think>", 151668)])


def mistral3():
    """Mistral v3 (and new Llama-2 files): Metaspace instead of normalizers, control tokens in the middle of text."""
    tokenizer = asset("tokenizers/llama2/tokenizer.json")
    tokenizer["added_tokens"] += [added(32000, "[INST]"), added(32001, "[/INST]"), added(32002, "[TOOL_CALLS]")]
    tokenizer["normalizer"] = None
    tokenizer["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return tokenizer


def tinyllama():
    """Zephyr-like chat on Llama-2's tokenizer; its markers are no tokens. Old files have Metaspace with splitting."""
    tokenizer = mistral3()
    tokenizer["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True,
                                  "prepend_scheme": "always"}
    tokenizer["decoder"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True,
                            "prepend_scheme": "always"}
    return tokenizer


def flags(tokenizer, first):
    """Every combination of an added token's flags."""
    for bits in range(16):
        left, right, word, normalized = (bool(bits & bit) for bit in (1, 2, 4, 8))
        content = ["tok", "<T>", "É\u0301x", "The  End"][bits % 4] + str(bits)
        tokenizer["added_tokens"].append(added(first + bits, content, lstrip=left, rstrip=right, single_word=word,
                                               normalized=normalized, special=bits % 3 == 0))
    return tokenizer


def normalizers(*steps):
    tokenizer = flags(asset("tokenizers/gpt2/tokenizer.json"), 50257)
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [dict(step) for step in steps]}
    return tokenizer


FAMILIES = {
    "gpt2": lambda: asset("tokenizers/gpt2/tokenizer.json"),
    "smollm2": lambda: asset("tokenizers/smollm2/tokenizer.json"),
    "llama2": lambda: asset("tokenizers/llama2/tokenizer.json"),  # and Mistral v1
    "llama3": llama3,
    "qwen2.5": qwen,
    "qwen3": qwen3,
    "mistral3": mistral3,
    "tinyllama": tinyllama,
    "tinystories-656k": lambda: asset("models/tinystories-656k/tokenizer.json"),
    "flags-bytes": lambda: flags(qwen(), 151665),
    "flags-spaces": lambda: flags(asset("tokenizers/llama2/tokenizer.json"), 32000),
    "nfd": lambda: normalizers({"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFD"}),
}


def ask(driver, path, requests):
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([driver, path], input=text, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        return done.stderr.strip() or f"exit status {done.returncode}"
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def report(what, cases):
    for given, ours, theirs in cases[:5]:
        print(f"  {what} {json.dumps(given)}\n    ours   {json.dumps(ours)}\n    theirs {json.dumps(theirs)}")
    return len(cases)


def compare(name, driver, count, seed):
    content = FAMILIES[name]()
    content.update(truncation=None, padding=None)  # lengths are the data set's business, there and here
    text = json.dumps(content)
    theirs = Tokenizer.from_str(text)
    generator = random.Random(f"{seed}/{name}")
    special = [token["content"] for token in content["added_tokens"]]
    texts = list(strings(count, generator, special[:40] + special[-40:])) + list(every_code_point(10))
    expected = [encoding.ids for encoding in theirs.encode_batch(texts)]
    limit = theirs.get_vocab_size() + 3
    lists = expected + [[generator.randrange(limit) for _ in range(generator.randrange(1, 12))] for _ in range(count)]
    # The package prints a special token that is `normalized` and that the normalizer changes; we never do.
    hidden = {token["id"] for token in content["added_tokens"] if token["special"] and token["normalized"]}
    lists = [[id for id in ids if id not in hidden] for ids in lists]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        path.write_text(text, encoding="utf-8")
        began = time.monotonic()
        ours = ask(driver, path, texts + lists)
    if isinstance(ours, str):
        print(f"{name}: {ours}")
        return 1
    seconds = time.monotonic() - began
    decoded = theirs.decode_batch(lists)
    wrong = [case for case in zip(texts, ours[:len(texts)], expected) if case[1] != case[2]]
    back = [case for case in zip(lists, ours[len(texts):], decoded) if case[1] != case[2]]
    print(f"{name}: {len(texts)} strings, {sum(map(len, expected))} ids, {len(wrong)} encoded and {len(back)} decoded "
          f"differently, {seconds:.1f} s for ours")
    return report("encode", wrong) + report("decode", back)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not ASSETS.exists():
        print(f"skipped: no shared assets at {ASSETS}; set FEDLLM_ASSETS")
        return 0
    driver = arguments.build / "tests/peers/peer_tokenizer"
    return 1 if sum(compare(name, driver, arguments.strings, arguments.seed)
                    for name in arguments.family or FAMILIES) else 0


if __name__ == "__main__":
    sys.exit(main())
