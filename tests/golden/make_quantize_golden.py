#!/usr/bin/env python3
"""Writes tests/golden/quantize/vectors.safetensors: what bitsandbytes makes of small matrices on a CPU.

Run by hand, from anywhere:  python3 tests/golden/make_quantize_golden.py [--check]
Needs torch, bitsandbytes and safetensors (written with torch 2.15, bitsandbytes 0.50.2). --check compares instead.

    <matrix>.input                            F32 or BF16 [N, K]
    <matrix>.<nf4|fp4>.<block>.codes          U8, two codes a byte
                             .absmax          F32, one per block
                             .values          F32 [N, K], dequantised
                             .nested.codes    U8, the same scales quantised once more ...
                             .nested.absmax   F32 ... in blocks of 256 ...
                             .nested.offset   F32 [1] ... around their mean
                             .nested.values   F32, the scales decoded
    <matrix>.int8.codes, .absmax, .values     I8 [N, K], F32 [N], F32 [N, K]
    dynamic_map                               F32 [256]

Values come from bitsandbytes' reference (backends/default), not from its compiled CPU path, which takes blocks to start anew
in each row (wrong where a row is no multiple of the block) and gives FP4's second zero a sign in some places.
The nested codes come from bitsandbytes' path for inputs in f64, which searches for the nearest value; its compiled CPU path
for f32 reads a table instead and misses the nearest by one code now and then.
"""
import argparse
import os
import pathlib
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the reference is compiled otherwise, which takes a minute

import torch
import bitsandbytes.functional as bnb
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import load_file, save_file

FILE = pathlib.Path(__file__).parent / "quantize" / "vectors.safetensors"


def matrices():
    generator = torch.Generator().manual_seed(7)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    edges = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 3e38, -3e38, 0.5, 2.0 ** -126, 1e-40, 0.25])
    zeros = normal(6, 64)
    zeros[1] = 0
    zeros[4] = 0
    zeros[5, 1:] = 0
    return {
        "normal": normal(40, 96),                    # several blocks a row and rows a block
        "normal_bf16": (0.02 * normal(24, 80)).bfloat16(),
        "odd": normal(7, 13),                        # an odd number of elements, a tail
        "zeros": zeros,                              # blocks, rows and a tail of nothing
        "zero_tail": torch.cat([normal(1, 64), torch.zeros(1, 64)]).reshape(-1)[:100].reshape(10, 10),
        "edges": edges.repeat(8)[:90].reshape(9, 10),
        "outliers": normal(8, 64) * torch.logspace(-20, 20, 8).unsqueeze(1),
    }


def four_bit(vectors, name, matrix, kind, block):
    codes, state = bnb.quantize_4bit(matrix, blocksize=block, quant_type=kind)
    key = f"{name}.{kind}.{block}"
    vectors[key + ".codes"] = codes.flatten()
    vectors[key + ".absmax"] = state.absmax
    vectors[key + ".values"] = _dequantize_4bit_compute(
        codes.flatten(), state.absmax, state.code, block, matrix.shape, torch.float32)
    offset = state.absmax.mean()
    nested, scale = torch.ops.bitsandbytes.quantize_blockwise.default(
        (state.absmax - offset).double(), bnb.create_dynamic_map(), 256)
    if not torch.isfinite(offset) or not (scale > 0).all():
        return  # a single scale: nothing to quantise around its mean
    vectors[key + ".nested.codes"] = nested
    vectors[key + ".nested.absmax"] = scale
    vectors[key + ".nested.offset"] = offset.reshape(1)
    decoded = torch.ops.bitsandbytes.dequantize_blockwise.default(
        nested, scale, bnb.create_dynamic_map(), 256, torch.float32)
    vectors[key + ".nested.values"] = decoded + offset


def int8(vectors, name, matrix):
    codes, absmax, _ = bnb.int8_vectorwise_quant(matrix)
    vectors[name + ".int8.codes"] = codes
    vectors[name + ".int8.absmax"] = absmax
    vectors[name + ".int8.values"] = bnb.int8_vectorwise_dequant(codes, absmax)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true")
    check = arguments.parse_args().check
    torch.set_num_threads(1)
    vectors = {"dynamic_map": bnb.create_dynamic_map()}
    for name, matrix in matrices().items():
        vectors[name + ".input"] = matrix
        for kind in ("nf4", "fp4"):
            for block in (64,) if name != "normal" else (32, 64, 256, 4096):
                four_bit(vectors, name, matrix, kind, block)
        int8(vectors, name, matrix)
    vectors = {key: value.contiguous().clone() for key, value in vectors.items()}
    if check:
        old = load_file(FILE)
        same = old.keys() == vectors.keys() and all(
            old[k].dtype == v.dtype and torch.equal(old[k].view(torch.uint8), v.view(torch.uint8)) for k, v in vectors.items())
        print("same" if same else "different")
        sys.exit(0 if same else 1)
    FILE.parent.mkdir(exist_ok=True)
    save_file(vectors, FILE)
    print(f"{FILE}: {len(vectors)} tensors, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
