#include "tools/convert/gguf_adapter.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "common/tensor/dtype.hpp"
#include "tests/client/engine/tiny_model.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::tools::convert {
namespace {

using namespace client::engine::testing;
using formats::GgufType;
using formats::LoadedAdapter;

// A reader of what the writer can write, as the specification has it.
struct GgufFile {
    std::map<std::string, std::string> texts;
    std::map<std::string, float> floats;
    std::map<std::string, std::uint32_t> numbers;
    struct Tensor {
        std::vector<std::uint64_t> sizes;  // fastest first
        std::vector<float> values;
    };
    std::map<std::string, Tensor> tensors;

    explicit GgufFile(std::string content) : bytes_(std::move(content)) {
        EXPECT_EQ(bytes_.substr(0, 4), "GGUF");
        at_ = 4;
        EXPECT_EQ(take<std::uint32_t>(), 3U);
        const auto tensor_count = take<std::uint64_t>();
        const auto key_count = take<std::uint64_t>();
        for (std::uint64_t i = 0; i < key_count; ++i) read_key();
        std::vector<std::pair<std::string, std::uint64_t>> offsets;
        std::map<std::string, std::uint32_t> types;
        for (std::uint64_t i = 0; i < tensor_count; ++i) {
            const std::string name = text();
            auto& tensor = tensors[name];
            tensor.sizes.resize(take<std::uint32_t>());
            for (auto& size : tensor.sizes) size = take<std::uint64_t>();
            types[name] = take<std::uint32_t>();
            offsets.emplace_back(name, take<std::uint64_t>());
        }
        const std::size_t data = (at_ + 31) / 32 * 32;
        for (const auto& [name, offset] : offsets) {
            EXPECT_EQ(offset % 32, 0U);
            at_ = data + offset;
            auto& tensor = tensors[name];
            for (std::uint64_t i = 0; i < tensor.sizes[0] * tensor.sizes[1]; ++i) {
                tensor.values.push_back(types[name] == 0 ? take<float>()
                                                         : tensor::f16_to_f32(take<std::uint16_t>()));
            }
        }
        EXPECT_EQ(bytes_.size() % 32, 0U);
    }

private:
    template <class Number>
    Number take() {
        Number number{};
        EXPECT_LE(at_ + sizeof number, bytes_.size());
        std::memcpy(&number, bytes_.data() + at_, sizeof number);
        at_ += sizeof number;
        return number;
    }
    std::string text() {
        const auto size = take<std::uint64_t>();
        at_ += size;
        return bytes_.substr(at_ - size, size);
    }
    void read_key() {
        const std::string name = text();
        const auto type = take<std::uint32_t>();
        if (type == 4) {
            numbers[name] = take<std::uint32_t>();
        } else if (type == 6) {
            floats[name] = take<float>();
        } else {
            ASSERT_EQ(type, 8U);
            texts[name] = text();
        }
    }

    std::string bytes_;
    std::size_t at_ = 0;
};

class GgufAdapter : public ::testing::Test {
protected:
    GgufAdapter() {
        adapter.spec = all_targets();
        adapter.parameters = random_lora(config, adapter.spec, 5);
    }
    GgufFile written(GgufType type = GgufType::F32) {
        const Path path = folder.path() / "a.gguf";
        write_gguf_adapter(path, adapter, config, type).value();
        return GgufFile(read_file(path).value());
    }
    std::vector<float> ours(const std::string& name) {
        const auto index =
            adapter.parameters.manifest().find("base_model.model.model.layers." + name + ".weight");
        const auto values = adapter.parameters.tensor(index.value());
        return {values.begin(), values.end()};
    }

    test::TempDir folder;
    client::model::ModelConfig config = tiny_config();
    LoadedAdapter adapter;
};

TEST_F(GgufAdapter, HasLlamaCppsKeysAndNames) {
    const GgufFile file = written();
    EXPECT_EQ(file.texts.at("general.architecture"), "llama");
    EXPECT_EQ(file.texts.at("general.type"), "adapter");
    EXPECT_EQ(file.texts.at("adapter.type"), "lora");
    EXPECT_EQ(file.floats.at("adapter.lora.alpha"), 6.0F);
    EXPECT_EQ(file.tensors.size(), 3U * 7 * 2);
    const auto& a = file.tensors.at("blk.2.ffn_down.weight.lora_a");
    const auto& b = file.tensors.at("blk.2.ffn_down.weight.lora_b");
    EXPECT_EQ(a.sizes, (std::vector<std::uint64_t>{config.intermediate, 3}));
    EXPECT_EQ(b.sizes, (std::vector<std::uint64_t>{3, config.hidden}));
    EXPECT_EQ(a.values, ours("2.mlp.down_proj.lora_A"));
    EXPECT_EQ(b.values, ours("2.mlp.down_proj.lora_B"));
    EXPECT_EQ(file.tensors.at("blk.0.attn_output.weight.lora_b").values, ours("0.self_attn.o_proj.lora_B"));
}

// llama.cpp turns neighbours (2j, 2j+1) where Hugging Face turns (j, j + D/2).
TEST_F(GgufAdapter, RowsOfQAndKArePermutedForLlamaAlone) {
    for (const char* type : {"llama", "qwen2"}) {
        config.family = client::model::find_family(type);
        const GgufFile file = written();
        EXPECT_EQ(file.texts.at("general.architecture"), type);
        for (const auto& [module, name, heads] :
             {std::tuple{"1.self_attn.q_proj", "blk.1.attn_q.weight", config.heads},
              std::tuple{"1.self_attn.k_proj", "blk.1.attn_k.weight", config.kv_heads}}) {
            const auto from = ours(std::string(module) + ".lora_B");
            const auto& to = file.tensors.at(std::string(name) + ".lora_b").values;
            for (std::size_t h = 0; h < heads; ++h) {
                for (std::size_t j = 0; j < config.head_size / 2; ++j) {
                    for (std::size_t p = 0; p < 2; ++p) {
                        const std::size_t hf = h * config.head_size + p * config.head_size / 2 + j;
                        const std::size_t gguf = h * config.head_size + 2 * j + p;
                        for (std::size_t r = 0; r < 3; ++r) {
                            EXPECT_EQ(to[(std::string(type) == "llama" ? gguf : hf) * 3 + r],
                                      from[hf * 3 + r]);
                        }
                    }
                }
            }
            EXPECT_EQ(file.tensors.at(std::string(name) + ".lora_a").values,
                      ours(std::string(module) + ".lora_A"));
        }
    }
}

// alpha of the file over rank, times what B was multiplied by, is the module's own scale.
TEST_F(GgufAdapter, EveryModuleHasItsScale) {
    adapter.spec.rslora = true;
    adapter.spec.modules = {{"model.layers.1.mlp.up_proj", 3, 1.5}};
    const GgufFile file = written();
    const double alpha = file.floats.at("adapter.lora.alpha");
    EXPECT_NEAR(alpha, 6 * std::sqrt(3.0), 1e-5);
    for (const auto& [module, name] : {std::pair{"1.mlp.up_proj", "blk.1.ffn_up.weight.lora_b"},
                                       std::pair{"2.mlp.up_proj", "blk.2.ffn_up.weight.lora_b"}}) {
        const auto own = adapter.spec.module("model.layers." + std::string(module));
        const double wanted = adapter.spec.scale_by(own.rank, own.alpha);
        const auto from = ours(std::string(module) + ".lora_B");
        const auto& to = file.tensors.at(name).values;
        for (std::size_t i = 0; i < from.size(); ++i) {
            EXPECT_NEAR(alpha / 3 * to[i], wanted * from[i], 1e-6 * (1 + std::abs(from[i])));
        }
    }
    adapter.spec = all_targets();
    adapter.spec.alpha = 0;  // llama.cpp reads 0 as "no scaling"
    const GgufFile still = written();
    for (const float value : still.tensors.at("blk.2.ffn_up.weight.lora_b").values) EXPECT_EQ(value, 0.0F);
}

TEST_F(GgufAdapter, F16IsHalfTheSizeAndRefusesWhatItCannotHold) {
    const auto wide = written();
    const auto narrow = written(GgufType::F16);
    EXPECT_EQ(narrow.numbers.at("general.file_type"), 1U);
    for (const auto& [name, tensor] : wide.tensors) {
        const auto& half = narrow.tensors.at(name).values;
        for (std::size_t i = 0; i < half.size(); ++i) {
            EXPECT_EQ(half[i], tensor::f16_to_f32(tensor::f32_to_f16(tensor.values[i])));
        }
    }
    adapter.parameters.tensor(4)[0] = 1e6F;
    const auto refused = write_gguf_adapter(folder.path() / "b.gguf", adapter, config, GgufType::F16);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::NotFinite);
    EXPECT_NE(refused.error().message.find("blk.0.attn_v.weight.lora_a"), std::string::npos)
        << refused.error().message;
}

TEST_F(GgufAdapter, RefusesWhatHasNoName) {
    const auto code = [&] {
        return write_gguf_adapter(folder.path() / "b.gguf", adapter, config, {}).error().code;
    };
    client::model::Family other = client::model::llama();
    other.model_type = "mamba";
    config.family = &other;
    EXPECT_EQ(code(), Errc::Unsupported);
    config.family = &client::model::llama();
    config.kv_heads = 1;
    EXPECT_EQ(code(), Errc::ManifestMismatch);
    adapter.parameters = tensor::ParamSet(
        tensor::Manifest::create({{"base_model.model.model.layers.0.mlp.router.lora_A.weight", {3, 4}}})
            .value());
    EXPECT_EQ(code(), Errc::Unsupported);
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "b.gguf"));
}

}  // namespace
}  // namespace fedllm::tools::convert
