#!/usr/bin/env python3
"""Writes tests/golden/families: tiny random models of the other families with what transformers and peft compute.

Run by hand, from anywhere:  python3 tests/golden/make_families_golden.py  (--check compares instead of writing)
Files, runs and precision are those of make_llama_golden.py, which has the code. Five models, each with `all` (an
adapter on every linear layer) and some with `full` (every parameter trained):

    llama3    rope scaling "llama3", 80 tokens where the original context is 64; pairs in all three bands
    mistral   a window of 5 keys over 24 tokens
    qwen2     biases on q, k and v; a window of 6 keys in the upper of two layers; tied head
    qwen3     norms on the heads of q and k, head_dim that is not hidden/heads
    gpt2      learned positions, LayerNorm, GELU, Conv1D, tied head; also an adapter on c_attn alone (`attn`)
"""
import torch
from peft import PeftModel
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)
from transformers.pytorch_utils import Conv1D

from make_llama_golden import ALL_LINEARS, load_model, main, make_batch, run, save_expected, write_adapter

SMALL = dict(vocab_size=41, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)

MODELS = {
    "llama3": dict(seed=11, length=80, make=(LlamaConfig, LlamaForCausalLM), full=False, config=dict(
        SMALL, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64})),
    "mistral": dict(seed=12, length=24, make=(MistralConfig, MistralForCausalLM), full=False, config=dict(
        SMALL, sliding_window=5, tie_word_embeddings=False)),
    "qwen2": dict(seed=13, length=24, make=(Qwen2Config, Qwen2ForCausalLM), full=False, config=dict(
        SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=True)),
    "qwen3": dict(seed=14, length=20, make=(Qwen3Config, Qwen3ForCausalLM), full=True, config=dict(
        SMALL, head_dim=10, tie_word_embeddings=False)),
    "gpt2": dict(seed=15, length=20, make=(GPT2Config, GPT2LMHeadModel), full=True, config=dict(
        vocab_size=41, n_embd=24, n_layer=2, n_head=3, n_positions=32, bos_token_id=1, eos_token_id=2,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)),
}


def write_model(folder, spec):
    """A model whose activations are of order one, so that every part of it matters to the loss."""
    torch.manual_seed(spec["seed"])
    config_class, model_class = spec["make"]
    model = model_class(config_class(**spec["config"]))
    conv1d = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1:  # a norm
                parameter.uniform_(0.5, 1.5)
            elif "embed_tokens" in name or "wte" in name or "wpe" in name:
                parameter.normal_(0, 0.5)
            else:
                inputs = parameter.shape[0 if id(parameter) in conv1d else 1]
                parameter.normal_(0, 1.2 / inputs ** 0.5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()


def write_families(root):
    for name, spec in MODELS.items():
        print(name)
        folder = root / name
        write_model(folder, spec)
        tokens, labels, targets = make_batch(spec)
        expected = {"tokens": tokens, "labels": labels, "targets": targets}
        gpt2 = name == "gpt2"
        adapters = {"all": ["c_attn", "c_proj", "c_fc"] if gpt2 else ALL_LINEARS}
        if gpt2:
            adapters["attn"] = ["c_attn"]
        for run_name, modules in adapters.items():
            write_adapter(folder, "adapter_" + run_name, modules, False, 100 + spec["seed"], fan_in_fan_out=gpt2)
            model = PeftModel.from_pretrained(load_model(folder), folder / ("adapter_" + run_name),
                                              is_trainable=True).double()
            expected |= run(run_name, model, tokens, labels, with_gradients=True)
        expected |= run("full", load_model(folder), tokens, labels, with_gradients=spec["full"])
        save_expected(folder, expected)


if __name__ == "__main__":
    main(__doc__, "families", write_families)
