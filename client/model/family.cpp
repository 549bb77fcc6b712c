#include "client/model/family.hpp"

#include <algorithm>
#include <array>

namespace fedllm::client::model {
namespace {

using Text = std::string_view;

constexpr std::array kOnce{PartName{kEmbedding, "model.embed_tokens"}, PartName{kFinalNorm, "model.norm"},
                           PartName{kHead, "lm_head"}};

// Llama's layer; the families differ in their biases and in norms on the heads.
constexpr std::array<PartName, 9> layer_of(Bias qkv, Bias o, Bias mlp) {
    return {{{kInputNorm, "input_layernorm"},
             {kQ, "self_attn.q_proj", qkv},
             {kK, "self_attn.k_proj", qkv},
             {kV, "self_attn.v_proj", qkv},
             {kO, "self_attn.o_proj", o},
             {kMlpNorm, "post_attention_layernorm"},
             {kGate, "mlp.gate_proj", mlp},
             {kUp, "mlp.up_proj", mlp},
             {kDown, "mlp.down_proj", mlp}}};
}
constexpr auto kLlamaLayer = layer_of(Bias::Attention, Bias::Attention, Bias::Mlp);
constexpr auto kMistralLayer = layer_of(Bias::No, Bias::No, Bias::No);
constexpr auto kQwen2Layer = layer_of(Bias::Yes, Bias::No, Bias::No);
constexpr std::array kQwen3Layer{PartName{kInputNorm, "input_layernorm"},
                                 PartName{kQ, "self_attn.q_proj", Bias::Attention},
                                 PartName{kK, "self_attn.k_proj", Bias::Attention},
                                 PartName{kV, "self_attn.v_proj", Bias::Attention},
                                 PartName{kQueryNorm, "self_attn.q_norm"},
                                 PartName{kKeyNorm, "self_attn.k_norm"},
                                 PartName{kO, "self_attn.o_proj", Bias::Attention},
                                 PartName{kMlpNorm, "post_attention_layernorm"},
                                 PartName{kGate, "mlp.gate_proj"},
                                 PartName{kUp, "mlp.up_proj"},
                                 PartName{kDown, "mlp.down_proj"}};

constexpr std::array kGpt2Once{
    PartName{kEmbedding, "transformer.wte"}, PartName{kPositions, "transformer.wpe"},
    PartName{kFinalNorm, "transformer.ln_f", Bias::Yes}, PartName{kHead, "lm_head"}};
constexpr std::array kGpt2Layer{
    PartName{kInputNorm, "ln_1", Bias::Yes}, PartName{kQkv, "attn.c_attn", Bias::OrZero},
    PartName{kO, "attn.c_proj", Bias::Yes},  PartName{kMlpNorm, "ln_2", Bias::Yes},
    PartName{kUp, "mlp.c_fc", Bias::Yes},    PartName{kDown, "mlp.c_proj", Bias::Yes}};

constexpr std::array<Text, 2> kSilu{"silu", "swish"};
constexpr std::array<Text, 2> kGeluTanh{"gelu_new", "gelu_pytorch_tanh"};
constexpr std::array<Text, 1> kRopeBuffers{"rotary_emb.inv_freq"};
constexpr std::array<Text, 2> kMaskBuffers{".attn.bias", ".attn.masked_bias"};

constexpr std::array kGpt2Flags{FixedFlag{"scale_attn_weights", true},
                                FixedFlag{"scale_attn_by_inverse_layer_idx", false},
                                FixedFlag{"add_cross_attention", false}};

constexpr std::array kFamilies{
    Family{.model_type = "llama",  // Llama 2 and 3, TinyLlama, SmolLM2
           .architecture = "LlamaForCausalLM",
           .once = kOnce,
           .layers = "model.layers.",
           .layer = kLlamaLayer,
           .activations = kSilu,
           .buffers = kRopeBuffers,
           .flags = {},
           .keys = {},
           .defaults = {.context = 2048, .bos = 1, .eos = 2}},
    Family{.model_type = "mistral",
           .architecture = "MistralForCausalLM",
           .once = kOnce,
           .layers = "model.layers.",
           .layer = kMistralLayer,
           .window = Window::Always,
           .activations = kSilu,
           .buffers = kRopeBuffers,
           .flags = {},
           .keys = {},
           .defaults = {.kv_heads = 8, .context = 131072, .bos = 1, .eos = 2}},
    Family{.model_type = "qwen2",
           .architecture = "Qwen2ForCausalLM",
           .once = kOnce,
           .layers = "model.layers.",
           .layer = kQwen2Layer,
           .window = Window::FromLayer,
           .activations = kSilu,
           .buffers = kRopeBuffers,
           .flags = {},
           .keys = {},
           .defaults = {.kv_heads = 32, .context = 32768, .bos = {}, .eos = {}}},
    Family{.model_type = "qwen3",
           .architecture = "Qwen3ForCausalLM",
           .once = kOnce,
           .layers = "model.layers.",
           .layer = kQwen3Layer,
           .window = Window::FromLayer,
           .activations = kSilu,
           .buffers = kRopeBuffers,
           .flags = {},
           .keys = {},
           .defaults = {.kv_heads = 32, .head_size = 128, .context = 32768, .bos = {}, .eos = {}}},
    Family{.model_type = "gpt2",
           .architecture = "GPT2LMHeadModel",
           .once = kGpt2Once,
           .layers = "transformer.h.",
           .layer = kGpt2Layer,
           .norm = NormKind::Layer,
           .activation = Activation::GeluTanh,
           .positions = Positions::Learned,
           .storage = Storage::InOut,
           .activations = kGeluTanh,
           .buffers = kMaskBuffers,
           .flags = kGpt2Flags,
           .keys = {"n_embd", "n_layer", "n_head", nullptr, nullptr, "n_inner", "n_positions",
                    "layer_norm_epsilon", "activation_function"},
           .defaults = {.intermediate = 4,
                        .context = 1024,
                        .epsilon = 1e-5,
                        .tied_head = true,
                        .bos = 50256,
                        .eos = 50256}}};

}  // namespace

std::string_view Family::path(Part part) const {
    for (const PartName& name : in_layers(part) ? layer : once) {
        if (name.part == part) return name.path;
    }
    return {};
}

bool Family::leaves(Bias bias) const {
    return std::any_of(layer.begin(), layer.end(),
                       [bias](const PartName& name) { return name.bias == bias; });
}

std::span<const Family> families() { return kFamilies; }

const Family* find_family(std::string_view model_type) {
    const auto* const found =
        std::find_if(kFamilies.begin(), kFamilies.end(),
                     [model_type](const Family& family) { return family.model_type == model_type; });
    return found == kFamilies.end() ? nullptr : found;
}

const Family& llama() { return kFamilies.front(); }

}  // namespace fedllm::client::model
