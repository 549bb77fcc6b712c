#!/usr/bin/env python3
"""Does PEFT load an adapter that FedLLM exported and compute the logits that FedLLM computed?

    check_export.py MODEL_FOLDER ADAPTER_FOLDER LOGITS.safetensors

LOGITS.safetensors holds `tokens` (I32 [B, T]) and `logits` (F32 [B, T, V], or [B, V] for the last positions alone).
Exit status 0 if no logit differs by more than 1e-4 of the largest one; 1 if one does; 77 without torch,
transformers and peft (the convention for a skipped test).
"""
import argparse
import sys

TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("logits")
    arguments = parser.parse_args()
    try:
        import torch
        from peft import PeftModel
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        print(f"skipped: {error}")
        return 77

    ours = load_file(arguments.logits)
    base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    before = {name for name, _ in base.named_parameters()}
    model = PeftModel.from_pretrained(base, arguments.adapter).eval()
    loaded = load_file(arguments.adapter + "/adapter_model.safetensors")
    # PEFT only warns about adapter tensors it finds no place for: count them ourselves.
    placed = {name.replace(".default", ""): value for name, value in model.named_parameters() if "lora_" in name}
    if placed.keys() != loaded.keys() or any(not torch.equal(placed[k], loaded[k].float()) for k in loaded):
        print(f"PEFT placed {len(placed)} adapter tensors, the file has {len(loaded)}, or values differ")
        return 1
    with torch.no_grad():
        theirs = model(input_ids=ours["tokens"].long()).logits
    if ours["logits"].dim() == 2:
        theirs = theirs[:, -1, :]
    scale = theirs.abs().max().item()
    difference = (ours["logits"] - theirs).abs().max().item()
    print(f"{len(before)} base tensors, {len(loaded)} adapter tensors, largest logit {scale:.4g}, "
          f"largest difference {difference:.3g} ({difference / scale:.2g} relative)")
    return 0 if difference <= TOLERANCE * scale else 1


if __name__ == "__main__":
    sys.exit(main())
