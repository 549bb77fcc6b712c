#include "client/model/base_model.hpp"

#include <algorithm>
#include <charconv>
#include <set>

#include "client/model/manifests.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/json.hpp"

namespace fedllm::client::model {

using formats::TensorInfo;
using kernels::WeightType;
using kernels::WeightView;
using tensor::DType;
using tensor::TensorSpec;

namespace {

constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kHead = "lm_head.weight";

bool is_aligned(const TensorInfo& tensor) {
    return reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % tensor::size_of(tensor.dtype) == 0;
}

// Buffers that old exporters saved and that hold nothing but RoPE's frequencies.
bool is_harmless(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

// One line that two equal computations share: floats in their shortest exact decimal.
std::string canonical_text(const ModelConfig& config) {
    std::string text;
    const auto add = [&](std::string_view key, auto value) {
        char digits[40];
        const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
        text.append(key).append("=").append(digits, end).append(";");
    };
    add("hidden", config.hidden);
    add("layers", config.layers);
    add("heads", config.heads);
    add("kv_heads", config.kv_heads);
    add("head_size", config.head_size);
    add("intermediate", config.intermediate);
    add("vocab", config.vocab);
    add("norm_epsilon", config.norm_epsilon);
    add("rope_theta", config.rope_theta);
    add("tied_head", int{config.tied_head});
    add("attention_bias", int{config.attention_bias});
    add("mlp_bias", int{config.mlp_bias});
    return text;
}

// Up to 64 blocks of 64 bytes at even distances, the first and the last bytes among them.
void hash_sample(crypto::Sha256& hash, std::span<const std::byte> bytes) {
    constexpr std::size_t kBlock = 64;
    constexpr std::size_t kBlocks = 64;
    if (bytes.size() <= kBlock * kBlocks) return hash.update(bytes);
    const std::size_t last = bytes.size() - kBlock;
    for (std::size_t i = 0; i < kBlocks; ++i) {
        const std::size_t at = last / (kBlocks - 1) * i + last % (kBlocks - 1) * i / (kBlocks - 1);
        hash.update(bytes.subspan(at, kBlock));
    }
}

}  // namespace

// Finds, checks and, where needed, converts every tensor of full_manifest().
class WeightLoader {
public:
    explicit WeightLoader(BaseModel& model) : model_(model) {}

    Result<void> load() {
        const auto manifest = full_manifest(model_.config_);
        std::vector<WeightView> views;
        for (const TensorSpec& spec : manifest.tensors()) {
            FEDLLM_TRY(const TensorInfo* const tensor, take(spec));
            FEDLLM_TRY(const WeightView view, view_of(*tensor));
            model_.used_.push_back(tensor);
            views.push_back(view);
        }
        FEDLLM_TRY_VOID(check_copy_of_tied_head());
        FEDLLM_TRY_VOID(check_nothing_is_left());
        model_.weights_ = arrange(model_.config_, views);
        return {};
    }

private:
    Error error(const TensorInfo& tensor, const std::string& what) const {
        return make_error(Errc::InvalidModel, model_.files_.file_of(tensor.name) + ": tensor " +
                                                  formats::describe(tensor) + ": " + what);
    }

    Result<const TensorInfo*> take(const TensorSpec& spec) {
        std::string name = spec.name;
        const TensorInfo* tensor = model_.files_.find(name);
        if (!tensor && name == kEmbedding &&
            model_.config_.tied_head) {  // some files keep only the other name
            name = kHead;
            tensor = model_.files_.find(name);
        }
        if (!tensor) {
            return make_error(Errc::InvalidModel,
                              model_.files_.files().front().path().parent_path().string() +
                                  ": the weights lack tensor " + tensor::describe(spec) +
                                  ", which config.json calls for");
        }
        seen_.insert(name);
        if (tensor->shape != spec.shape) {
            return error(*tensor, "config.json makes its shape " +
                                      tensor::describe(spec).substr(spec.name.size() + 1));
        }
        if (tensor->dtype != DType::F32 && tensor->dtype != DType::BF16 && tensor->dtype != DType::F16) {
            return error(*tensor, "weights must be F32, F16 or BF16");
        }
        return tensor;
    }

    Result<WeightView> view_of(const TensorInfo& tensor) {
        const std::size_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
        const std::size_t cols = tensor.shape.back();
        const bool in_place =
            is_aligned(tensor) &&
            (tensor.dtype == DType::F32 || (tensor.dtype == DType::BF16 && tensor.shape.size() == 2));
        if (in_place) {
            const WeightType type = tensor.dtype == DType::F32 ? WeightType::F32 : WeightType::BF16;
            return WeightView{tensor.bytes.data(), type, rows, cols};
        }
        FEDLLM_TRY(std::vector<float> floats, formats::read_floats(tensor));
        model_.owned_.push_back(std::move(floats));
        return WeightView{model_.owned_.back().data(), WeightType::F32, rows, cols};
    }

    // A tied model may store its table under both names, but then it must be one table.
    Result<void> check_copy_of_tied_head() {
        const TensorInfo* head = model_.files_.find(kHead);
        if (!model_.config_.tied_head || !head || head == model_.used_.front()) return {};
        seen_.insert(std::string(kHead));
        if (head->dtype == model_.used_.front()->dtype &&
            std::ranges::equal(head->bytes, model_.used_.front()->bytes)) {
            return {};
        }
        return error(*head, "differs from the embedding although config.json says tie_word_embeddings");
    }

    Result<void> check_nothing_is_left() const {
        for (const auto& [name, tensor] : model_.files_.tensors()) {
            if (seen_.contains(name) || is_harmless(name)) continue;
            return error(*tensor, "a model of this config.json has no such tensor");
        }
        return {};
    }

    BaseModel& model_;
    std::set<std::string, std::less<>> seen_;
};

Result<BaseModel> BaseModel::load(const Path& folder) {
    FEDLLM_TRY(ModelConfig config, read_model_config(folder));
    FEDLLM_TRY(formats::SafetensorsFolder files, formats::SafetensorsFolder::open(folder));
    BaseModel model(std::move(config), std::move(files));
    FEDLLM_TRY_VOID(WeightLoader(model).load());
    return model;
}

std::string BaseModel::fingerprint() const {
    std::map<std::string, const TensorInfo*> by_name;
    const auto manifest = full_manifest(config_);
    for (std::size_t i = 0; i < used_.size(); ++i) by_name.emplace(manifest.tensors()[i].name, used_[i]);
    crypto::Sha256 hash;
    hash.update("fedllm base model 1\n" + canonical_text(config_) + "\n");
    for (const auto& [name, tensor] : by_name) {
        const TensorSpec spec{name, tensor->shape};
        hash.update(tensor::describe(spec) + " " + std::string(tensor::name(tensor->dtype)) + "\n");
        hash_sample(hash, tensor->bytes);
    }
    return crypto::to_hex(hash.finish());
}

tensor::ParamSet full_parameters(const BaseModel& model) {
    tensor::ParamSet parameters(full_manifest(model.config()));
    for (std::size_t i = 0; i < model.used_.size(); ++i) {
        formats::read_floats(*model.used_[i], parameters.tensor(i)).value();  // load() checked type and shape
    }
    return parameters;
}

}  // namespace fedllm::client::model
