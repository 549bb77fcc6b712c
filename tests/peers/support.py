"""What the peers share: tiny models, calls of fedllm, log-likelihoods by transformers."""
import json
import os
import pathlib
import subprocess
import sys

SKIPPED = 77
ASSETS = pathlib.Path(os.environ.get("FEDLLM_ASSETS", "../shared/assets"))


def build_folder():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} BUILD_FOLDER")
    return pathlib.Path(sys.argv[1])


def need(*packages):
    """Imports packages; where one is missing the peer is skipped."""
    try:
        return [__import__(package) for package in packages]
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(SKIPPED)


def fedllm(*arguments, environment=None):
    """The JSON that `fedllm ... --json` prints."""
    command = [str(build_folder() / "tools/fedllm"), *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


class Check:
    """Collects differences; the last line and the exit status say how it went."""

    def __init__(self):
        self.failed = 0

    def that(self, good, what):
        print(("ok      " if good else "DIFFERS ") + what)
        self.failed += not good

    def near(self, ours, theirs, tolerance, what):
        difference = max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
        self.that(difference <= tolerance, f"{what}: {len(ours)} values, largest difference {difference:.2g}")

    def end(self):
        print("all equal" if self.failed == 0 else f"{self.failed} differences")
        sys.exit(1 if self.failed else 0)


def byte_tokenizer(folder):
    """A byte-level tokenizer.json without merges; ids 0 and 1 are <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {token: 2 + i for i, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tiny_llama(folder, seed=0, **changes):
    """A random Llama model folder (f32) with byte_tokenizer(); returns the model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(seed)
    settings = dict(vocab_size=258, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                    bos_token_id=0, eos_token_id=1, initializer_range=0.15, tie_word_embeddings=False)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).float().eval()
    model.save_pretrained(folder)
    byte_tokenizer(folder)
    return model


def log_likelihood(model, ids, first):
    """Sum of log p of ids[first:], each given all before it."""
    import torch
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0].double()
    rows = torch.log_softmax(logits, dim=-1)
    return sum(rows[i - 1, ids[i]].item() for i in range(max(first, 1), len(ids)))


def encode_choice(tokenizer, bos, prompt, continuation):
    """Ids with BOS, and where the continuation begins: lm-evaluation-harness's rule."""
    whole = tokenizer.encode(prompt + continuation, add_special_tokens=False).ids
    before = tokenizer.encode(prompt, add_special_tokens=False).ids
    return [bos] + whole, 1 + len(before)
