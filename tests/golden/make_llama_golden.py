#!/usr/bin/env python3
"""Writes tests/golden/llama: tiny random Llama models with what PyTorch, transformers and peft compute for them.

Run by hand, from anywhere:  python3 tests/golden/make_llama_golden.py
Needs torch, transformers, peft and safetensors (written with torch 2.15, transformers 5.23, peft 0.21). Seeds are
fixed and one thread is used, so a second run writes the same bytes; --check compares instead of writing.

Three models: `gqa` (grouped queries, untied head), `tied_bias` (tied head, biases on q, k, v and o), `long_rope`
(head_dim that is not hidden/heads, rope_theta 500000, 96 positions, which is all its context).

Each folder holds config.json and model.safetensors (f32), the adapters `adapter_all` (seven linears) and `adapter_qv`
(q_proj and v_proj; rsLoRA in long_rope), both rank 4, alpha 8, with non-zero B, saved by PEFT, and expected.safetensors:

    tokens, labels, targets   I32 [2, T]; labels as Hugging Face wants them (label t is token t, or -100), targets
                              shifted for a plain loss: targets[t] = labels[t + 1], the last one -100
    <run>.loss                [1] mean over the targets that are not -100
    <run>.logits_last         [2, V] logits of the last position of each row
    <run>.grad.<tensor>       gradient of the loss, in PEFT's names (adapters) or Hugging Face's (full)
    <run>.steps.loss          [11] before each of ten AdamW steps and after the last
    <run>.steps.grad_norm     [10] L2 norm of all gradients of each step, before clipping

with <run> one of all, qv, full (no adapter, every parameter trained; gradients for gqa and tied_bias only).
Steps: torch.optim.AdamW, lr 1e-3, betas (0.9, 0.999), eps 1e-8, no weight decay, gradients clipped to norm 1.

Computed in float64 from the stored f32 weights, except where transformers itself insists on float32 (norm statistics
and RoPE angles), then rounded to f32.
"""
import argparse
import filecmp
import json
import pathlib
import shutil
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ALL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORE = -100
STEPS = 10

MODELS = {
    "gqa": dict(seed=1, length=24, config=dict(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False)),
    "tied_bias": dict(seed=2, length=20, config=dict(
        vocab_size=61, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=32, rms_norm_eps=1e-6, tie_word_embeddings=True,
        attention_bias=True)),
    "long_rope": dict(seed=3, length=96, rslora=True, config=dict(
        vocab_size=67, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=96, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, tie_word_embeddings=False)),
}


def write_model(folder, spec):
    """A model whose activations are of order one, so that every part of it matters to the loss."""
    torch.manual_seed(spec["seed"])
    config = LlamaConfig(**spec["config"], bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "embed_tokens" in name:
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()


def load_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).double().train()


def write_adapter(model_folder, name, modules, rslora, seed, **more):
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, use_rslora=rslora, lora_dropout=0.0,
                        task_type="CAUSAL_LM", **more)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.2)
    model.peft_config["default"].base_model_name_or_path = "fedllm-golden/" + model_folder.name
    adapter_folder = model_folder / name
    model.save_pretrained(adapter_folder, save_embedding_layers=False)
    (adapter_folder / "README.md").unlink()
    # PEFT saves target modules from a set, whose order changes from run to run.
    config_path = adapter_folder / "adapter_config.json"
    content = json.loads(config_path.read_text())
    content["target_modules"].sort(key=modules.index)
    config_path.write_text(json.dumps(content, indent=2, sort_keys=True))


def make_batch(spec):
    generator = torch.Generator().manual_seed(1000 + spec["seed"])
    tokens = torch.randint(0, spec["config"]["vocab_size"], (2, spec["length"]), generator=generator)
    labels = tokens.clone()
    labels[0, :5] = IGNORE                      # a prompt
    labels[1, spec["length"] - 4:] = IGNORE     # padding
    labels[1, 7] = IGNORE
    targets = torch.full_like(labels, IGNORE)
    targets[:, :-1] = labels[:, 1:]
    return tokens, labels, targets


def trainable(model):
    return [(name.replace(".default", ""), p) for name, p in model.named_parameters() if p.requires_grad]


def run(prefix, model, tokens, labels, with_gradients):
    output = model(input_ids=tokens, labels=labels)
    output.loss.backward()
    result = {f"{prefix}.loss": output.loss.detach().reshape(1),
              f"{prefix}.logits_last": output.logits.detach()[:, -1, :]}
    if with_gradients:
        result |= {f"{prefix}.grad.{name}": p.grad.clone() for name, p in trainable(model)}
    parameters = [p for _, p in trainable(model)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    losses.append(model(input_ids=tokens, labels=labels).loss.item())
    result[f"{prefix}.steps.loss"] = torch.tensor(losses, dtype=torch.float64)
    result[f"{prefix}.steps.grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    print(f"  {prefix}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, gradient norm {norms[0]:.3f} -> {norms[-1]:.3f}")
    return result


def write_golden(root):
    for name, spec in MODELS.items():
        print(name)
        folder = root / name
        write_model(folder, spec)
        tokens, labels, targets = make_batch(spec)
        expected = {"tokens": tokens, "labels": labels, "targets": targets}
        for run_name, modules, rslora in [("all", ALL_LINEARS, False),
                                          ("qv", ["q_proj", "v_proj"], spec.get("rslora", False))]:
            write_adapter(folder, "adapter_" + run_name, modules, rslora, seed=100 + spec["seed"])
            model = PeftModel.from_pretrained(load_model(folder), folder / ("adapter_" + run_name),
                                              is_trainable=True).double()
            expected |= run(run_name, model, tokens, labels, with_gradients=True)
        expected |= run("full", load_model(folder), tokens, labels, with_gradients=name != "long_rope")
        save_expected(folder, expected)


def save_expected(folder, expected):
    stored = {key: value.to(torch.float32 if value.is_floating_point() else torch.int32).contiguous()
              for key, value in expected.items()}
    save_file(stored, folder / "expected.safetensors")


def same_content(a, b):
    """Configs name library versions and safetensors written elsewhere may order keys differently: compare values."""
    if filecmp.cmp(a, b, shallow=False):
        return True
    if a.suffix == ".json":
        left, right = json.loads(a.read_text()), json.loads(b.read_text())
        return all(left.get(k) == right.get(k) for k in left.keys() | right.keys() if not k.endswith("_version"))
    if a.suffix != ".safetensors":
        return False
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all(torch.allclose(left[k], right[k], rtol=1e-5, atol=1e-6) for k in left)


def main(description, name, write):
    """Fills tests/golden/<name> by write(folder), or compares it with a fresh run."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the files there are, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    target = pathlib.Path(__file__).resolve().parent / name
    with tempfile.TemporaryDirectory() as temporary:
        fresh = pathlib.Path(temporary) / name
        write(fresh)
        files = sorted(p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file())
        if not arguments.check:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(fresh, target)
            return
        wrong = [str(f) for f in files if not (target / f).exists() or not same_content(fresh / f, target / f)]
        if wrong:
            raise SystemExit("these files differ from a fresh run: " + ", ".join(wrong))
        print(f"{len(files)} files agree with a fresh run")


if __name__ == "__main__":
    main(__doc__, "llama", write_golden)
