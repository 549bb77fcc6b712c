"""One LoRA training step of PyTorch + peft (+ bitsandbytes): the yardstick of bench_step, in figures of its own process.

    torch_step.py f32|bf16|nf4 [seconds [threads]]

The shape is SmolLM2-135M's with random weights: 30 layers, hidden 576, 9 query and 3 key/value heads, feed-forward 1536,
vocabulary 49,152, tied head; batch 4 x 256, rank 16 on all linear layers, AdamW, gradients clipped to 1. Prints one JSON
object: the median step, tokens per second, peak resident memory, and the loss and gradient norm of the last step, which
must be finite and not zero for the figure to mean anything.
"""
import json
import math
import resource
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

ROWS, TOKENS = 4, 256
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(kind: str) -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048,
                         tie_word_embeddings=True)
    torch.manual_seed(1)
    if kind == "f32":
        return LlamaForCausalLM(config)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    if kind == "nf4":
        import bitsandbytes as bnb
        for parent in list(model.model.layers.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Linear):
                    layer = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False,
                                              compute_dtype=torch.bfloat16, quant_type="nf4")
                    layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                    setattr(parent, name, layer.to("cpu"))
    return model


def main() -> None:
    kind = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    model = get_peft_model(base_model(kind), LoraConfig(r=16, lora_alpha=32, target_modules=MODULES,
                                                        task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    tokens = torch.randint(0, 49152, (ROWS, TOKENS))
    times = []
    end = None
    while end is None or time.monotonic() < end or len(times) < 3:
        started = time.monotonic()
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if end is None:  # the first step touches the memory
            end = time.monotonic() + seconds
            continue
        times.append(time.monotonic() - started)
    loss, norm = float(loss), float(norm)
    assert math.isfinite(loss) and norm > 0, (loss, norm)
    median = statistics.median(times)
    print(json.dumps({"base": kind, "torch": torch.__version__, "steps": len(times), "ms_per_step": 1e3 * median,
                      "tokens_per_second": ROWS * TOKENS / median, "loss": loss, "gradient_norm": norm,
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
