"""LoRA training steps of PyTorch on this GPU, over step_bench's shapes: the yardstick of whole steps.

    torch_step.py [8B|1B|135M|tiny|all [bf16|nf4|all [SECONDS]]]

Models are made on the GPU with random weights: nothing is downloaded. With transformers and peft importable it is
LlamaForCausalLM under peft's LoRA, in nf4 with bitsandbytes' layers; without them a decoder of plain PyTorch with adapters
written out, which has the same products. Rank 16 on all seven projections, bf16 base, adapters f32 under autocast, SDPA
attention, fused AdamW, gradients clipped to 1. What runs out of memory is tried again with gradient checkpointing. Prints
a line of figures per run and what could not run; ends with 77 where no run was possible. `tiny` runs on CPUs, too.
"""
import math
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    print("torch_step: cannot run: no PyTorch here")
    sys.exit(77)

RANK, ALPHA = 16, 32
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# hidden, layers, heads, key/value heads, size of a head, feed-forward, vocabulary, tied head, rows, tokens
MODELS = {
    "8B": (4096, 32, 32, 8, 128, 14336, 128256, False, 4, 2048),
    "1B": (2048, 16, 32, 8, 64, 8192, 128256, True, 4, 2048),
    "135M": (576, 30, 9, 3, 64, 1536, 49152, True, 8, 512),
    "tiny": (64, 2, 4, 2, 16, 128, 144, True, 2, 24),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Unavailable(Exception):
    pass


# Plain PyTorch, where transformers and peft are missing.
class Adapted(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs).normal_(0, 0.02), requires_grad=False)
        self.a = nn.Parameter(torch.empty(RANK, inputs, dtype=torch.float32).uniform_(-1, 1) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(outputs, RANK, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight) + F.linear(F.linear(x, self.a), self.b) * (ALPHA / RANK)


class Block(nn.Module):
    def __init__(self, c: int, heads: int, kv: int, d: int, f: int) -> None:
        super().__init__()
        self.heads, self.kv, self.d = heads, kv, d
        self.norms = nn.ParameterList(nn.Parameter(torch.ones(c), requires_grad=False) for _ in range(2))
        self.q, self.k, self.v = Adapted(c, heads * d), Adapted(c, kv * d), Adapted(c, kv * d)
        self.o, self.gate, self.up, self.down = Adapted(heads * d, c), Adapted(c, f), Adapted(c, f), Adapted(f, c)

    def turned(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * turn[0] + torch.cat((-high, low), dim=-1) * turn[1]

    def forward(self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        rows, tokens, c = x.shape
        y = F.rms_norm(x, (c,), self.norms[0], 1e-5)
        split = [(self.q, self.heads), (self.k, self.kv), (self.v, self.kv)]
        q, k, v = (part(y).view(rows, tokens, n, self.d).transpose(1, 2) for part, n in split)
        more = self.heads // self.kv
        k, v = self.turned(k, turn), v
        y = F.scaled_dot_product_attention(self.turned(q, turn), k.repeat_interleave(more, 1),
                                           v.repeat_interleave(more, 1), is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(rows, tokens, -1))
        y = F.rms_norm(x, (c,), self.norms[1], 1e-5)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, shape: tuple) -> None:
        super().__init__()
        c, layers, heads, kv, d, f, vocabulary, tied, _, tokens = shape
        self.embedding = nn.Parameter(torch.empty(vocabulary, c).normal_(0, 0.02), requires_grad=False)
        self.head = self.embedding if tied else nn.Parameter(torch.empty(vocabulary, c).normal_(0, 0.02),
                                                             requires_grad=False)
        self.blocks = nn.ModuleList(Block(c, heads, kv, d, f) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(c), requires_grad=False)
        angles = torch.outer(torch.arange(tokens).float(), 500000.0 ** (-torch.arange(0, d, 2).float() / d))
        angles = torch.cat((angles, angles), dim=-1)
        self.turn = (angles.cos().to(self.norm.dtype), angles.sin().to(self.norm.dtype))
        self.again = False

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = F.embedding(tokens, self.embedding).requires_grad_(self.again)
        for block in self.blocks:
            x = torch.utils.checkpoint.checkpoint(block, x, self.turn, use_reentrant=False) if self.again else block(
                x, self.turn)
        logits = F.linear(F.rms_norm(x, x.shape[-1:], self.norm, 1e-5), self.head)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def four_bit(model: nn.Module) -> None:
    import bitsandbytes as bnb
    for parent in list(model.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                layer = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False,
                                          compute_dtype=torch.bfloat16, quant_type="nf4", device="meta")
                layer.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                setattr(parent, name, layer.to(DEVICE))


def peft_model(shape: tuple, kind: str, again: bool):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    c, layers, heads, kv, d, f, vocabulary, tied, _, tokens = shape
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=c, intermediate_size=f, num_hidden_layers=layers,
                         num_attention_heads=heads, num_key_value_heads=kv, head_dim=d, rope_theta=500000.0,
                         max_position_embeddings=tokens, tie_word_embeddings=tied, use_cache=False,
                         attn_implementation="sdpa")
    base = LlamaForCausalLM(config)
    if kind == "nf4":
        four_bit(base)
    if again:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM"))
    return model, lambda tokens: model(input_ids=tokens, labels=tokens).loss


def make(shape: tuple, kind: str, again: bool):
    """The model, its loss as a function, and in words what it is."""
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(DEVICE):
            try:
                model, loss = peft_model(shape, kind, again)
                return model, loss, "peft"
            except ImportError as missing:
                if kind != "bf16":
                    raise Unavailable(f"{missing.name} is missing") from None
            model = Decoder(shape)
            model.again = again
            return model, model, "plain PyTorch, no peft"
    finally:
        torch.set_default_dtype(torch.float32)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def train(name: str, kind: str, seconds: float, again: bool) -> None:
    shape = MODELS[name]
    rows, count = shape[-2:]
    model, loss_of, what = make(shape, kind, again)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=DEVICE == "cuda")
    tokens = torch.randint(0, shape[6], (rows, count), device=DEVICE)
    times, end, step = [], math.inf, 0
    while not times or time.monotonic() < end:
        wait()
        begin = time.monotonic()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = loss_of(tokens)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        wait()
        step += 1
        if step == 2:
            end = time.monotonic() + seconds
        if step > 2:
            times.append(time.monotonic() - begin)
    loss, norm = float(loss.detach()), float(norm.detach())
    assert math.isfinite(loss) and math.isfinite(norm) and norm > 0, (loss, norm)
    taken = statistics.median(times)
    memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0.0
    print(f"{name}, {kind}, {what}{', layers computed again' if again else ''}: {1e3 * taken:.1f} ms/step (median of "
          f"{len(times)}), {rows * count / taken:.0f} tokens/s, {memory:.1f} GiB at most, loss {loss:.3f}, gradient norm "
          f"{norm:.3g}", flush=True)


def run(name: str, kind: str, seconds: float) -> bool:
    for again in (False, True):
        try:
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            train(name, kind, seconds, again)
            return True
        except torch.OutOfMemoryError:
            print(f"{name}, {kind}: out of memory{' even' if again else ''} "
                  f"{'with layers computed again' if again else 'with all activations kept'}", flush=True)
        except Unavailable as why:
            print(f"{name}, {kind}: cannot run here: {why}", flush=True)
            return False
        except Exception as error:  # one kind that some version cannot do must not hide the others
            print(f"{name}, {kind}: cannot run here: {type(error).__name__}: {error}", flush=True)
            return False
    return False


def main() -> None:
    name, kind, seconds = (sys.argv[1:] + ["all", "all", "5"][len(sys.argv) - 1:])[:3]
    names = [n for n in MODELS if n != "tiny"] if name == "all" else [name]
    if DEVICE == "cpu" and names != ["tiny"]:
        print("torch_step: cannot run: PyTorch sees no GPU")
        sys.exit(77)
    print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'the CPU'}", flush=True)
    ran = [run(n, k, float(seconds)) for n in names for k in (["bf16", "nf4"] if kind == "all" else [kind])]
    sys.exit(0 if any(ran) else 77)


if __name__ == "__main__":
    main()
