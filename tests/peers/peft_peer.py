#!/usr/bin/env python3
"""Adapters round about: saved by peft -> read by fedllm -> equal likelihoods; exported by fedllm (peft, merged) ->
loaded by peft and transformers -> equal logits (1e-4). For patterns of ranks and alphas, rsLoRA, targets by name,
regular expression, layer and "all-linear"; and what is refused.
"""
import json
import pathlib
import subprocess
import tempfile

import support

support.need("torch", "transformers", "peft", "tokenizers")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

QV = ["q_proj", "v_proj"]
CASES = {
    "names": dict(r=4, lora_alpha=8, target_modules=QV),
    "rank_pattern": dict(r=4, lora_alpha=8, target_modules=QV,
                         rank_pattern={"q_proj": 2, "model.layers.1.self_attn.v_proj": 7}),
    "alpha_pattern": dict(r=4, lora_alpha=8, target_modules=QV,
                          alpha_pattern={r".*layers\.[12]\..*v_proj": 3, "^model.layers.0.self_attn.q_proj": 5}),
    "both patterns, rslora": dict(r=4, lora_alpha=8, target_modules=QV + ["down_proj"], use_rslora=True,
                                  rank_pattern={r"layers\.(0|2)\.mlp\.down_proj": 6},
                                  alpha_pattern={"down_proj": 2.5, "layers.1.self_attn.q_proj": 1}),
    "rslora": dict(r=9, lora_alpha=6, target_modules=QV, use_rslora=True),
    "regular expression": dict(r=3, lora_alpha=6, target_modules=r".*layers\.[02]\.(self_attn\.(k|o)|mlp\.up)_proj"),
    "all-linear": dict(r=3, lora_alpha=6, target_modules="all-linear"),
    "layers_to_transform": dict(r=3, lora_alpha=6, target_modules=QV, layers_to_transform=[1]),
    "whole paths": dict(r=3, lora_alpha=6, target_modules=["model.layers.2.mlp.gate_proj", "k_proj"]),
}
REFUSED = {
    "use_dora": dict(use_dora=True),
    "lora_bias": dict(lora_bias=True),
    "modules_to_save": dict(modules_to_save=["lm_head"]),
    "bias": dict(bias="all"),
    "embeddings": dict(target_modules=["embed_tokens", "q_proj"]),
}
TEXTS = [("Once upon a time", [" there was a cat.", " nobody came", " 42"]), ("x", ["yz", "\u00e9t\u00e9"])]


def make(base, settings):
    torch.manual_seed(1)
    settings = dict(r=4, lora_alpha=8, target_modules=QV, task_type="CAUSAL_LM") | settings
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings)).eval()
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data.normal_(0, 0.2)
    return model


def logits(model):
    torch.manual_seed(2)
    ids = torch.randint(0, 258, (2, 40))
    with torch.no_grad():
        return model(input_ids=ids).logits


def compare_likelihoods(check, name, model, base, adapter, data):
    report = support.fedllm("eval", "--model", base, "--adapter", adapter, "--data", data, "--samples")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    ours = [value for sample in report["files"][0]["samples"] for value in sample["log_likelihoods"]]
    theirs = [support.log_likelihood(model, *support.encode_choice(tokenizer, 0, f"Question: {p}\nAnswer:", " " + c))
              for p, choices in TEXTS for c in choices]
    check.near(ours, theirs, 1e-4 * max(map(abs, theirs)), f"{name}: log-likelihoods")


def compare_logits(check, what, ours, theirs, bound):
    difference = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    check.that(difference <= bound, f"{what}: largest relative difference {difference:.2g}")


def compare_export(check, name, model, base, adapter, folder):
    support.fedllm("export", "--adapter", adapter, "--format", "peft", "--out", folder / "again")
    again = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), folder / "again")
    names = {n for n, _ in model.named_parameters() if "lora_" in n}
    check.that(names == {n for n, _ in again.named_parameters() if "lora_" in n},
               f"{name}: peft makes the same {len(names)} tensors of our export")
    compare_logits(check, f"{name}: our export in peft", logits(again.eval()), logits(model), 1e-4)
    merged = {}
    for kind in ("f32", "bf16"):
        out = folder / f"merged-{kind}"
        support.fedllm("export", "--adapter", adapter, "--model", base, "--format", "merged", "--type", kind, "--out",
                       out)
        merged[kind] = LlamaForCausalLM.from_pretrained(out)
    compare_logits(check, f"{name}: merged in transformers", logits(merged["f32"]), logits(model), 1e-4)
    narrow = merged["bf16"].state_dict()
    check.that(merged["bf16"].dtype == torch.bfloat16 and
               all(torch.equal(narrow[n], v.bfloat16()) for n, v in merged["f32"].state_dict().items()),
               f"{name}: merged as bf16 is the same, rounded once")


check = support.Check()
with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary)
    base = root / "base"
    support.tiny_llama(base)
    data = root / "data.jsonl"
    data.write_text("".join(json.dumps({"question": p, "choices": c, "answer": 0}) + "\n" for p, c in TEXTS))
    plain = logits(LlamaForCausalLM.from_pretrained(base))
    for number, (name, settings) in enumerate(CASES.items()):
        folder = root / str(number)
        model = make(base, settings)
        model.save_pretrained(folder / "adapter")
        check.that((logits(model) - plain).abs().max() > 0.1, f"{name}: the adapter changes the logits")
        compare_likelihoods(check, name, model, base, folder / "adapter", data)
        compare_export(check, name, model, base, folder / "adapter", folder)
    for word, settings in REFUSED.items():
        folder = root / word
        make(base, settings).save_pretrained(folder)
        done = subprocess.run([support.build_folder() / "tools/fedllm", "eval", "--model", base, "--adapter", folder,
                               "--data", data], capture_output=True, text=True)
        check.that(done.returncode == 1 and word.split("_")[0] in done.stderr.lower(),
                   f"refused: {word}: {done.stderr.strip()[-120:]}")
check.end()
