#!/usr/bin/env python3
"""GGUF adapters of `fedllm export`: every key and tensor as the gguf package reads them, beside what llama.cpp's
converter makes of the same PEFT adapter; and, where xllamacpp (llama.cpp with a wheel on PyPI) is installed, what
llama.cpp computes with the adapter loaded.
"""
import json
import pathlib
import tempfile

import support

support.need("torch", "transformers", "peft", "gguf", "numpy")
import gguf
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from transformers import LlamaForCausalLM

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}
CASES = {
    "all-linear": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    "rslora": dict(r=9, lora_alpha=6, target_modules=["q_proj", "k_proj"], use_rslora=True),
    "patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2},
                     alpha_pattern={"model.layers.1.self_attn.v_proj": 3}),
}


def permute(rows, heads):
    """LlamaModel.permute of llama.cpp's converter."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def expected_tensors(adapter, model, config):
    """GGUF name -> array, of a PEFT adapter; B times what one alpha for all leaves over."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    root = settings["r"] ** 0.5 if settings["use_rslora"] else 1.0
    alpha = settings["lora_alpha"] * root
    scales = {name: module.scaling["default"] for name, module in model.base_model.model.named_modules()
              if isinstance(getattr(module, "scaling", None), dict)}
    tensors = {}
    for name, array in load_file(adapter / "adapter_model.safetensors").items():
        module, kind = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        layer, part = module.removeprefix("model.layers.").split(".", 1)
        if kind == "B":
            array = array * (scales[module] / (alpha / array.shape[1]))
            if NAMES[part] in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if NAMES[part] == "attn_q" else config.num_key_value_heads
                array = permute(array, heads)
        tensors[f"blk.{layer}.{NAMES[part]}.weight.lora_{kind.lower()}"] = array
    return tensors, alpha


def compare_file(check, name, path, adapter, model, kind):
    reader = gguf.GGUFReader(path)
    tensors, alpha = expected_tensors(adapter, model, model.config)
    text = {key: field.contents() for key, field in reader.fields.items()}
    wanted = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    version = reader.fields["GGUF.version"].parts[-1][0]
    check.that(version == 3 and all(text.get(key) == value for key, value in wanted.items()), f"{name}: keys {wanted}")
    check.near([text["adapter.lora.alpha"]], [alpha], 1e-5, f"{name}: adapter.lora.alpha")
    check.that({t.name for t in reader.tensors} == tensors.keys(), f"{name}: {len(tensors)} tensor names")
    bits = {"f32": (gguf.GGMLQuantizationType.F32, np.float32, 2e-7),
            "f16": (gguf.GGMLQuantizationType.F16, np.float16, 5e-4)}
    quantisation, dtype, bound = bits[kind]
    worst = 0.0
    for tensor in reader.tensors:
        theirs = tensors[tensor.name].astype(np.float32)
        ours = tensor.data.astype(np.float32)
        good = tensor.tensor_type == quantisation and ours.shape == theirs.shape and tensor.data.dtype == dtype
        if not good:
            check.that(False, f"{name}: {tensor.name}: {tensor.tensor_type} {ours.shape}")
            continue
        worst = max(worst, np.abs(ours - theirs).max() / np.abs(theirs).max())
    check.that(worst <= bound, f"{name} {kind}: values, largest relative difference {worst:.2g}")


def write_base(path, model, tokens):
    """The base as GGUF, f32, with a vocabulary of plain tokens: enough for llama.cpp to run it."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(tokens)
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    # Whole words: llama.cpp's server gives no log-probabilities for a token that is half a character.
    writer.add_token_list(["<unk>", "<s>", "</s>", "<0x0A>"] + [f"t{number}" for number in range(4, tokens)])
    writer.add_token_scores([0.0] * tokens)
    writer.add_token_types([2, 3, 3, 6] + [1] * (tokens - 4))
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        if name.startswith("model.layers."):
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            part = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}.get(part) or NAMES[part]
            if part in ("attn_q", "attn_k"):
                array = permute(array, config.num_attention_heads if part == "attn_q" else config.num_key_value_heads)
            name = f"blk.{layer}.{part}.weight"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                    "lm_head.weight": "output.weight"}[name]
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_log_probabilities(base, adapter, prompts):
    """For each prompt the log-probabilities of the next token by id, as llama.cpp computes them."""
    params = llama.CommonParams()
    params.model.path = str(base)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.cpuparams.n_threads = 128, 1, 0, 1
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to f16
    params.warmup = params.fit_params = False
    if adapter is not None:
        params.lora_adapters = [llama.CommonAdapterLoraInfo(str(adapter), 1.0)]
    server = llama.Server(params)
    rows = []
    for ids in prompts:
        answer = server.handle_completions({"prompt": ids, "n_predict": 1, "n_probs": 258, "temperature": 0.0,
                                            "ignore_eos": True})
        likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        rows.append({entry["id"]: entry["logprob"] for entry in likeliest})
    return rows


def compare_llama(check, name, base_gguf, adapter_gguf, model, bound):
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 250, (length,), generator=generator).tolist() for length in (3, 17, 40)]
    adapted = llama_log_probabilities(base_gguf, adapter_gguf, prompts)
    plain = llama_log_probabilities(base_gguf, None, prompts)
    difference = effect = 0.0
    for ids, ours, without in zip(prompts, adapted, plain):
        with torch.no_grad():
            theirs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double(), dim=-1)
        if len(ours) < 250:
            check.that(False, f"{name}: llama.cpp gives {len(ours)} log-probabilities")
        difference = max(difference, *(abs(value - theirs[i].item()) for i, value in ours.items()))
        effect = max(effect, *(abs(value - theirs[i].item()) for i, value in without.items()))
    check.that(difference < bound < 0.5 < effect, f"{name}: llama.cpp with our adapter beside peft: largest difference "
               f"{difference:.2g} (without the adapter {effect:.2g})")


check = support.Check()
try:
    import xllamacpp as llama
except ImportError:
    llama = None
    print("xllamacpp (llama.cpp) is not installed: files are compared, log-probabilities are not")
with tempfile.TemporaryDirectory() as temporary:
    root = pathlib.Path(temporary)
    base = root / "base"
    support.tiny_llama(base)
    for name, settings in CASES.items():
        torch.manual_seed(1)
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **settings))
        for parameter, value in model.named_parameters():
            if "lora_" in parameter:
                value.data.normal_(0, 0.2)
        model.eval().save_pretrained(root / name)
        for kind in ("f32", "f16"):
            path = root / f"{name}-{kind}.gguf"
            support.fedllm("export", "--adapter", root / name, "--model", base, "--format", "gguf", "--type", kind,
                           "--out", path)
            compare_file(check, name, path, root / name, model, kind)
        if llama is not None:
            write_base(root / "base.gguf", LlamaForCausalLM.from_pretrained(base), model.config.vocab_size)
            compare_llama(check, name, root / "base.gguf", root / f"{name}-f32.gguf", model, 1e-4)
            compare_llama(check, f"{name} f16", root / "base.gguf", root / f"{name}-f16.gguf", model, 3e-2)
check.end()
