// A family of models, as a table entry: what its tensors are called, how a layer computes, and what
// config.json calls its sizes. Everything else (manifests, loading, binding, the engine) follows from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "client/model/parts.hpp"

namespace fedllm::client::model {

enum class NormKind { Rms, Layer };          // LayerNorm has a bias, RMSNorm has none
enum class Activation { Swiglu, GeluTanh };  // down(silu(gate) * up), down(gelu(up))
enum class Positions { Rotary, Learned };    // RoPE on q and k, or a table added to the embedding
enum class Storage { OutIn, InOut };         // a linear layer's weight in files: nn.Linear or Conv1D
enum class Bias {
    No,
    Yes,
    OrZero,  // yes, and zero where a file lacks it, as transformers starts it
    Attention,
    Mlp,  // if config.json's attention_bias or mlp_bias says so
};
enum class Window { None, Always, FromLayer };  // sliding_window: ignored, in all layers, in upper layers

struct PartName {
    Part part;
    std::string_view path;  // of the module: in full, or within its layer
    Bias bias = Bias::No;
};

// What config.json calls things, and what a missing field means to transformers.
struct ConfigKeys {
    const char* hidden = "hidden_size";
    const char* layers = "num_hidden_layers";
    const char* heads = "num_attention_heads";
    const char* kv_heads = "num_key_value_heads";  // nullptr: the family has no such field
    const char* head_size = "head_dim";            // likewise
    const char* intermediate = "intermediate_size";
    const char* context = "max_position_embeddings";
    const char* epsilon = "rms_norm_eps";
    const char* activation = "hidden_act";
};
struct ConfigDefaults {
    std::size_t kv_heads = 0;      // 0: as many as query heads
    std::size_t head_size = 0;     // 0: hidden / heads
    std::size_t intermediate = 0;  // times hidden; 0: the field is required
    std::size_t context = 0;
    double epsilon = 1e-6;
    bool tied_head = false;
    std::optional<std::int32_t> bos, eos;
};

struct FixedFlag {
    const char* key;
    bool value;  // the only one supported, and what an absent field means
};

struct Family {
    std::string_view model_type;    // in config.json
    std::string_view architecture;  // likewise
    std::span<const PartName> once;
    std::string_view layers;  // a layer's tensors: this, its number, a dot, the path
    std::span<const PartName> layer;
    NormKind norm = NormKind::Rms;
    Activation activation = Activation::Swiglu;
    Positions positions = Positions::Rotary;
    Storage storage = Storage::OutIn;
    Window window = Window::None;
    std::span<const std::string_view> activations;  // names that mean `activation`
    std::span<const std::string_view> buffers;      // ends of names of saved constants, not read
    std::span<const FixedFlag> flags;
    ConfigKeys keys;
    ConfigDefaults defaults;

    bool has(Part part) const { return !path(part).empty(); }
    std::string_view path(Part part) const;  // empty: the family lacks the part
    bool leaves(Bias bias) const;            // some bias to this field of the file
    // "model.": transformers leaves it off where only the inner model was saved.
    std::string_view prefix() const { return layers.substr(0, layers.find('.') + 1); }
};

std::span<const Family> families();
const Family* find_family(std::string_view model_type);  // nullptr: none of ours
const Family& llama();                                   // the plain one

}  // namespace fedllm::client::model
