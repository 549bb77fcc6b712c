#!/usr/bin/env python3
"""Our quantisation against bitsandbytes, and checkpoints saved by transformers + bitsandbytes against our loader.

    python3 tests/peers/quantize_peer.py BUILD_FOLDER [--matrices N]

Encodes random matrices of many shapes and scales to NF4, FP4 (block sizes 32 to 4096) and LLM.int8, from f32 and bf16:
codes and scales must have the same bytes, decoded values the same bits. Then quantises tiny Llama models with
transformers, in every kind, saves them, and compares our logits with those of the dequantised weights in float64.
Needs torch, transformers, bitsandbytes and safetensors (written with 2.15, 5.24, 0.50.2, 0.8).

bitsandbytes' values come from its reference (backends/default): its compiled CPU path takes blocks to start anew in each row.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the reference is compiled otherwise, which takes a minute

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TYPES = {"int8": 2, "nf4": 3, "fp4": 4}  # WeightType


class Driver:
    def __init__(self, build):
        program = pathlib.Path(build) / "tests/peers/peer_quantize"
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            sys.exit(f"{request}: {answer['error']}")
        return answer


def random_matrices(count, generator):
    matrices = {}
    for i in range(count):
        rows, cols = (int(torch.randint(1, limit, (1,), generator=generator)) for limit in (70, 300))
        matrix = torch.randn(rows, cols, generator=generator)
        matrix *= 10.0 ** float(torch.empty(1).uniform_(-6, 4, generator=generator))
        if i % 5 == 1:  # whole blocks and rows of nothing
            matrix[rows // 2:] = 0
        if i % 5 == 2:  # values on the thresholds between codes
            matrix = torch.round(matrix / matrix.abs().max() * 16) / 16
        matrices[f"m{i}"] = matrix.bfloat16() if i % 2 else matrix
    return matrices


def of_bitsandbytes(matrix, kind, block):
    if kind == "int8":
        codes, absmax, _ = bnb.int8_vectorwise_quant(matrix)
        return codes.flatten().view(torch.uint8), absmax, bnb.int8_vectorwise_dequant(codes, absmax)
    codes, state = bnb.quantize_4bit(matrix, blocksize=block, quant_type=kind)
    values = _dequantize_4bit_compute(codes.flatten(), state.absmax, state.code, block, matrix.shape, torch.float32)
    return codes.flatten(), state.absmax, values


def compare_encoders(driver, count, folder):
    matrices = random_matrices(count, torch.Generator().manual_seed(11))
    save_file(matrices, folder / "in.safetensors")
    wrong = compared = 0
    for kind, block in [("int8", 64)] + [(kind, block) for kind in ("nf4", "fp4") for block in BLOCKS]:
        driver.ask(quantize=str(folder / "in.safetensors"), kind=kind, block=block, out=str(folder / "out.safetensors"))
        ours = load_file(folder / "out.safetensors")
        for name, matrix in matrices.items():
            theirs = of_bitsandbytes(matrix, kind, block)
            for part, expected in zip(("codes", "absmax", "values"), theirs):
                got = ours[f"{name}.{part}"].view(torch.uint8)
                compared += 1
                if not torch.equal(got, expected.contiguous().flatten().view(torch.uint8)):
                    wrong += 1
                    print(f"differs: {kind}/{block} {name} {list(matrix.shape)} {matrix.dtype}: {part}")
    print(f"{compared} arrays of {count} matrices in 17 formats compared, {wrong} differ")
    return wrong


def dequantised(folder):
    """The weights of a checkpoint as its codes mean them."""
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in stored.items():
        state = next((key for key in stored if key.startswith(name + ".quant_state.bitsandbytes__")), None)
        scale = name.removesuffix("weight") + "SCB"
        if state:
            fields = json.loads(bytes(stored[state].numpy()))
            absmax = stored[name + ".absmax"]
            if "nested_offset" in fields:
                absmax = torch.ops.bitsandbytes.dequantize_blockwise.default(
                    absmax, stored[name + ".nested_absmax"], stored[name + ".nested_quant_map"], 256, torch.float32)
                absmax = absmax + fields["nested_offset"]
            weights[name] = _dequantize_4bit_compute(tensor.view(torch.uint8).flatten(), absmax, stored[name + ".quant_map"],
                                                     fields["blocksize"], fields["shape"], torch.float32)
        elif tensor.dtype == torch.int8:
            weights[name] = bnb.int8_vectorwise_dequant(tensor, stored[scale])
        elif ".weight." not in name and not name.endswith((".SCB", ".weight_format")):
            weights[name] = tensor
    return weights


def compare_checkpoint(driver, what, config, quantization, kind, folder):
    torch.manual_seed(3)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "plain")
    model = AutoModelForCausalLM.from_pretrained(folder / "plain", quantization_config=quantization,
                                                 dtype=torch.bfloat16, device_map={"": "cpu"})
    target = folder / what.replace(" ", "-")
    model.save_pretrained(target)
    ids = [1] + torch.randint(2, config.vocab_size, (20,), generator=torch.Generator().manual_seed(5)).tolist()
    answer = driver.ask(model=str(target), ids=ids)
    reference = LlamaForCausalLM(config).double()
    weights = {name: value.double() for name, value in dequantised(target).items()}
    reference.load_state_dict(weights)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0, -1]
    error = ((torch.tensor(answer["logits"], dtype=torch.float64) - expected).abs().max() / expected.abs().max()).item()
    good = answer["type"] == TYPES[kind] and error < 2e-5
    print(f"{what}: type {answer['type']}, logits within {error:.1e} of float64{'' if good else '  WRONG'}")
    return 0 if good else 1


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("build")
    arguments.add_argument("--matrices", type=int, default=40)
    options = arguments.parse_args()
    driver = Driver(options.build)
    config = LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
                         initializer_range=0.2)
    four = lambda kind, nested, **more: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested, **more)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        wrong = compare_encoders(driver, options.matrices, folder)
        wrong += compare_checkpoint(driver, "nf4", config, four("nf4", False), "nf4", folder)
        wrong += compare_checkpoint(driver, "nf4 nested", config, four("nf4", True), "nf4", folder)
        wrong += compare_checkpoint(driver, "fp4 nested", config, four("fp4", True), "fp4", folder)
        wrong += compare_checkpoint(driver, "nf4 stored as bf16", config,
                                    four("nf4", True, bnb_4bit_quant_storage=torch.bfloat16), "nf4", folder)
        wrong += compare_checkpoint(driver, "nf4 but one layer", config,
                                    four("nf4", True, llm_int8_skip_modules=["lm_head", "model.layers.1"]), "nf4", folder)
        wrong += compare_checkpoint(driver, "int8", config, BitsAndBytesConfig(load_in_8bit=True), "int8", folder)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
