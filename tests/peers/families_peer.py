#!/usr/bin/env python3
"""Every family end to end, against transformers and peft (torch, transformers, peft, tokenizers).

    families_peer.py BUILD_FOLDER

Random small models of random shapes (heads, biases, ties, windows, scalings) and a tokenizer; then per model: the loss
of `fedllm eval` on the base, with an adapter that `fedllm train` made and PEFT loads, and of a whole model that it
trained and wrote and transformers loads. Every other model is trained with checkpointing. Losses may differ by 1e-4 of
their size. Exit status 1 on a difference, 77 where a package is missing.
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    import torch
    from peft import PeftModel
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TOLERANCE = 1e-4
MODELS_PER_FAMILY = 3
VOCABULARY = 300
LLAMA_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_LINEARS = ["c_attn", "c_proj", "c_fc"]


def rope(choose):
    kind = choose.choice(["default", "linear", "llama3"])
    scaling = {"rope_type": kind, "rope_theta": choose.choice([1000.0, 10000.0])}
    if kind != "default":
        scaling["factor"] = choose.choice([2.0, 8.0])
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    return scaling


def config_of(family, choose):
    kv_heads = choose.choice([1, 2])
    common = dict(vocab_size=VOCABULARY, hidden_size=24, intermediate_size=choose.choice([20, 48]),
                  num_hidden_layers=3, num_attention_heads=kv_heads * choose.choice([1, 2]),
                  num_key_value_heads=kv_heads, max_position_embeddings=128, bos_token_id=None, eos_token_id=None,
                  tie_word_embeddings=choose.random() < 0.5)
    window = dict(use_sliding_window=choose.random() < 0.7, sliding_window=choose.choice([1, 5, 200]),
                  max_window_layers=choose.choice([0, 1, 3]))
    if family == "llama":
        return LlamaConfig(**common, attention_bias=choose.random() < 0.5, mlp_bias=choose.random() < 0.5,
                           rope_parameters=rope(choose), head_dim=choose.choice([6, 12, 16]))
    if family == "mistral":
        return MistralConfig(**common, sliding_window=choose.choice([None, 3, 17]), rope_parameters=rope(choose))
    if family == "qwen2":
        return Qwen2Config(**common, **window)
    if family == "qwen3":
        return Qwen3Config(**common, **window, head_dim=choose.choice([6, 16]), attention_bias=choose.random() < 0.5)
    return GPT2Config(vocab_size=VOCABULARY, n_embd=24, n_layer=3, n_head=choose.choice([1, 2, 3]), n_positions=128,
                      n_inner=choose.choice([None, 40]), bos_token_id=None, eos_token_id=None, attn_pdrop=0.0,
                      embd_pdrop=0.0, resid_pdrop=0.0, tie_word_embeddings=choose.random() < 0.5)


def write_model(folder, config, tokenizer):
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def make_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_texts(choose):
    words = ["federated", "models", "learn", "without", "pooling", "text", "äöü", "of", "the", "site", "42", "rounds"]
    return [" ".join(choose.choice(words) for _ in range(choose.randint(4, 25))) for _ in range(12)]


def their_loss(model, texts, tokenizer):
    total, count = 0.0, 0
    model = model.double().eval()
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss.item()
        total, count = total + loss * (ids.shape[1] - 1), count + ids.shape[1] - 1
    return total / count


def fedllm(build, *arguments):
    command = [str(build / "tools/fedllm"), *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def our_loss(build, model, data, *more):
    return json.loads(fedllm(build, "eval", "--model", model, "--data", data, "--sequence-length", 128, *more))["files"][0]["loss"]


def train(build, folder, model, data, method, targets, checkpointing):
    job = folder / f"{method}.yaml"
    job.write_text(f"name: peer\nbase_model: m\nmethod: {method}\nrounds: 1\n"
                   f"lora: {{rank: 3, alpha: 12, target_modules: [{', '.join(targets)}]}}\n"
                   f"train: {{local_steps: 4, batch_rows: 2, sequence_length: 128, checkpointing: {checkpointing}, "
                   "optimizer: {learning_rate: 0.02}}\n")
    fedllm(build, "train", job, "--model", model, "--data", data, "--out", folder / method, "--quiet")
    return folder / method


def main():
    build = pathlib.Path(sys.argv[1])
    torch.manual_seed(1)
    choose = random.Random(1)
    texts = make_texts(choose)
    tokenizer = make_tokenizer(texts)
    wrong = 0

    def compare(what, ours, theirs):
        nonlocal wrong
        good = abs(ours - theirs) <= TOLERANCE * theirs
        wrong += not good
        print(f"{'ok     ' if good else 'DIFFERS'} {what}: {ours:.6f} and {theirs:.6f}")

    for family in ["llama", "mistral", "qwen2", "qwen3", "gpt2"]:
        for index in range(MODELS_PER_FAMILY):
            with tempfile.TemporaryDirectory() as temporary:
                folder = pathlib.Path(temporary)
                model, data = folder / "model", folder / "data.jsonl"
                data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
                write_model(model, config_of(family, choose), tokenizer)
                targets = GPT2_LINEARS if family == "gpt2" else LLAMA_LINEARS
                checkpointing = "layers" if index % 2 else "none"
                name = f"{family} {index}"

                def load(path):
                    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

                compare(name + " base", our_loss(build, model, data), their_loss(load(model), texts, tokenizer))
                adapter = train(build, folder, model, data, "lora", targets, checkpointing)
                compare(name + " adapter", our_loss(build, model, data, "--adapter", adapter),
                        their_loss(PeftModel.from_pretrained(load(model), adapter), texts, tokenizer))
                whole = train(build, folder, model, data, "full", targets, checkpointing)
                compare(name + " whole model", our_loss(build, whole, data), their_loss(load(whole), texts, tokenizer))
    print(f"{wrong} differ" if wrong else "all agree")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
