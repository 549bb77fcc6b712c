#!/usr/bin/env python3
"""fedllm generate beside transformers' generate(): greedy text, stop strings, streaming, and the nucleus of top-p."""
import subprocess
import sys

import support

support.need("torch", "transformers")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TopPLogitsWarper

MODEL = support.ASSETS / "models/tinystories-656k"
if not MODEL.exists():
    print(f"skipped: no {MODEL}; set FEDLLM_ASSETS")
    sys.exit(support.SKIPPED)
PROMPTS = ["Once upon a time, there was a", "Lily and Ben", "The cat sat on the mat and"]

check = support.Check()
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32").eval()
tokenizer = AutoTokenizer.from_pretrained(MODEL)
bos = model.config.bos_token_id


def ids_of(prompt):
    return torch.tensor([[bos] + tokenizer.encode(prompt, add_special_tokens=False)])


def theirs(prompt, **settings):
    ids = ids_of(prompt)
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **settings)
    whole = tokenizer.decode(out[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    before = tokenizer.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return whole.removeprefix(before)


def ours(prompt, *options):
    return support.fedllm("generate", "--model", MODEL, "--prompt", prompt, *options)


for prompt in PROMPTS:
    text = theirs(prompt, max_new_tokens=60)
    made = ours(prompt, "--tokens", 60)
    check.that(made["text"] == text, f"greedy: {text[:60]!r}")
    stops = [text[20:24], "never said"]
    cut = theirs(prompt, max_new_tokens=60, stop_strings=stops, tokenizer=tokenizer)
    made = ours(prompt, "--tokens", 60, "--stop", stops[0], "--stop", stops[1])
    check.that(made["text"] == cut[:cut.index(stops[0])] and made["ended"] == "stop",
               f"stop {stops[0]!r}: {made['text']!r}")
    shown = subprocess.run([support.build_folder() / "tools/fedllm", "generate", "--model", MODEL, "--prompt", prompt,
                            "--tokens", "60", "--stream"], capture_output=True, text=True).stdout
    check.that(shown == prompt + text + "\n", "streamed: the same")

prompt, top_p, temperature = PROMPTS[0], 0.5, 1.3
with torch.no_grad():
    logits = model(input_ids=ids_of(prompt)).logits[:, -1]
kept = torch.isfinite(TopPLogitsWarper(top_p)(None, logits / temperature))[0].nonzero().flatten().tolist()
words = {theirs_text for theirs_text in (tokenizer.decode([bos, i], skip_special_tokens=True) for i in kept)}
drawn = {ours(prompt, "--tokens", 1, "--temperature", temperature, "--top-p", top_p, "--seed", seed)["text"].strip()
         for seed in range(60)}
check.that(drawn <= {word.strip() for word in words}, f"top-p: {len(drawn)} tokens drawn, all of the {len(kept)} kept")
check.that(len(drawn) > 1, "top-p: more than one token is drawn")
check.end()
