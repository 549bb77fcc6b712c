// Quantised bases: files in the layout of transformers + bitsandbytes, whole and tampered with, and bases
// that are quantised while they are loaded.
#include "client/model/quantized.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>

#include "client/model/base_model.hpp"
#include "client/model/manifests.hpp"
#include "kernels/quantize/code_books.hpp"
#include "kernels/quantize/op.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::model {
namespace {

using formats::TensorToWrite;
using kernels::WeightType;
using kernels::WeightView;
using tensor::DType;
using tensor::ParamSet;
using tensor::BaseStorage;
using test::TempDir;

const std::string kUp = "model.layers.1.mlp.up_proj";
const std::string kState = ".weight.quant_state.bitsandbytes__nf4";

// Odd sizes: blocks straddle rows and end short.
ModelConfig tiny() {
    return {.hidden = 14,
            .layers = 2,
            .heads = 2,
            .kv_heads = 1,
            .head_size = 6,
            .intermediate = 27,
            .vocab = 11,
            .context = 16,
            .attention_bias = true,
            .bos = 1,
            .eos = 2};
}

// The tensors of a file, as the test makes and unmakes them.
class File {
public:
    template <class T>
    void add(const std::string& name, DType dtype, std::vector<std::uint64_t> shape,
             const std::vector<T>& values) {
        const auto bytes = std::as_bytes(std::span(values));
        buffers_.emplace_back(bytes.begin(), bytes.end());
        tensors.push_back({name, dtype, std::move(shape), buffers_.back()});
    }
    void add_text(const std::string& name, std::string_view text) {
        add(name, DType::U8, {text.size()}, std::vector<char>(text.begin(), text.end()));
    }
    void remove(const std::string& name) {
        std::erase_if(tensors, [&](const TensorToWrite& tensor) { return tensor.name == name; });
    }
    void replace_text(const std::string& name, std::string_view text) {
        remove(name);
        add_text(name, text);
    }
    std::string text(const std::string& name) {
        const auto bytes = named(name).bytes;
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    TensorToWrite& named(const std::string& name) {
        for (TensorToWrite& tensor : tensors) {
            if (tensor.name == name) return tensor;
        }
        ADD_FAILURE() << name;
        return tensors.front();
    }
    // Changes one byte of a tensor.
    void flip(const std::string& name) {
        const auto bytes = named(name).bytes;
        buffers_.emplace_back(bytes.begin(), bytes.end());
        buffers_.back().front() ^= std::byte{0x11};
        named(name).bytes = buffers_.back();
    }

    std::vector<TensorToWrite> tensors;

private:
    std::deque<std::vector<std::byte>> buffers_;
};

// Replaces a weight by its 4-bit form and returns the values that its codes stand for.
std::vector<float> quantize_in(File& file, const std::string& module, std::size_t rows, std::size_t cols,
                               WeightType type, bool nested) {
    kernels::ThreadPool pool(1);
    const std::string name = module + ".weight";
    const std::string kind = type == WeightType::NF4 ? "nf4" : "fp4";
    const WeightView from{file.named(name).bytes.data(), WeightType::F32, rows, cols};
    std::vector<std::uint8_t> codes(kernels::four_bit_bytes(rows * cols));
    std::vector<float> scales(kernels::blocks_of(rows * cols, 64)), values(rows * cols);
    kernels::quantize_four_bit(pool, from, type, 64, codes, scales);
    file.remove(name);
    file.add(name, DType::U8, {codes.size(), 1}, codes);
    const auto& book = type == WeightType::NF4 ? kernels::kNf4Values : kernels::kFp4Values;
    file.add(name + ".quant_map", DType::F32, {16}, std::vector<float>(book.begin(), book.end()));
    std::string state = R"({"quant_type": ")" + kind +
                        R"(", "blocksize": 64, "dtype": "float32", "shape": [)" + std::to_string(rows) +
                        ", " + std::to_string(cols) + "]";
    if (nested) {
        const float offset = 0.0625F;  // any will do, and this one is the same in decimal
        std::vector<std::uint8_t> nested_codes(scales.size());
        std::vector<float> nested_scales(kernels::blocks_of(scales.size(), 256));
        const auto map = kernels::dynamic_map();
        kernels::encode_scales(scales, offset, map, nested_codes, nested_scales);
        kernels::decode_scales(nested_codes, nested_scales, map, offset, scales);
        file.add(name + ".absmax", DType::U8, {nested_codes.size()}, nested_codes);
        file.add(name + ".nested_absmax", DType::F32, {nested_scales.size()}, nested_scales);
        file.add(name + ".nested_quant_map", DType::F32, {256}, std::vector<float>(map.begin(), map.end()));
        state += R"(, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0625)";
    } else {
        file.add(name + ".absmax", DType::F32, {scales.size()}, scales);
    }
    file.add_text(name + ".quant_state.bitsandbytes__" + kind, state + "}");
    kernels::dequantize(pool, {codes.data(), type, rows, cols, scales.data(), 64}, values);
    return values;
}

std::vector<float> quantize_int8_in(File& file, const std::string& module, std::size_t rows,
                                    std::size_t cols) {
    kernels::ThreadPool pool(1);
    const std::string name = module + ".weight";
    std::vector<std::int8_t> codes(rows * cols);
    std::vector<float> absmax(rows), values(rows * cols);
    kernels::quantize_int8(pool, {file.named(name).bytes.data(), WeightType::F32, rows, cols}, codes, absmax);
    file.remove(name);
    file.add(name, DType::I8, {rows, cols}, codes);
    file.add(module + ".SCB", DType::F32, {rows}, absmax);
    file.add(module + ".weight_format", DType::U8, {}, std::vector<std::uint8_t>{0});
    for (float& scale : absmax) scale *= kernels::kInt8Step;
    kernels::dequantize(pool, {codes.data(), WeightType::Int8, rows, cols, absmax.data()}, values);
    return values;
}

// A model of which some layers are quantised and others are not, with the values they stand for.
struct Mixed {
    ParamSet parameters = initial_full(tiny(), 5);
    File file;
    ParamSet expected = parameters;

    Mixed() {
        const auto specs = parameters.manifest().tensors();
        for (std::size_t i = 0; i < specs.size(); ++i) {
            const auto values = parameters.tensor(i);
            file.add(specs[i].name, DType::F32, specs[i].shape,
                     std::vector<float>(values.begin(), values.end()));
        }
        quantize("model.layers.0.self_attn.q_proj", 12, 14, WeightType::NF4, false);
        quantize("model.layers.0.mlp.down_proj", 14, 27, WeightType::FP4, true);
        quantize(kUp, 27, 14, WeightType::NF4, true);
        expect("model.layers.1.self_attn.o_proj",
               quantize_int8_in(file, "model.layers.1.self_attn.o_proj", 14, 12));
    }
    void quantize(const std::string& module, std::size_t rows, std::size_t cols, WeightType type,
                  bool nested) {
        expect(module, quantize_in(file, module, rows, cols, type, nested));
    }
    void expect(const std::string& module, const std::vector<float>& values) {
        const auto to = expected.tensor(*expected.manifest().find(module + ".weight"));
        std::copy(values.begin(), values.end(), to.begin());
    }
    Result<BaseModel> load(const TempDir& folder, BaseStorage storage = BaseStorage::AsStored) const {
        std::string config = model_config_json(tiny(), "float32");
        config.insert(1, R"("quantization_config": {"quant_method": "bitsandbytes"},)");
        EXPECT_TRUE(
            write_file_atomically(folder.path() / "config.json", std::string_view(config)).has_value());
        EXPECT_TRUE(
            formats::write_safetensors(folder.path() / "model.safetensors", file.tensors).has_value());
        return BaseModel::load(folder.path(), {storage});
    }
};

TEST(Quantized, LoadsLayersOfEveryKindBesideOthers) {
    const TempDir folder;
    const Mixed mixed;
    const auto model = mixed.load(folder);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const ModelWeights& weights = model->weights();
    EXPECT_EQ(weights.layers[0][kQ].weight.type, WeightType::NF4);
    EXPECT_EQ(weights.layers[0][kK].weight.type, WeightType::F32);
    EXPECT_EQ(weights.layers[0][kDown].weight.type, WeightType::FP4);
    EXPECT_EQ(weights.layers[1][kO].weight.type, WeightType::Int8);
    EXPECT_EQ(weights.layers[0][kQ].bias.size(), 12u);
    EXPECT_EQ(full_parameters(*model), mixed.expected);
}

TEST(Quantized, TheFingerprintCoversCodesScalesAndFields) {
    const auto fingerprint = [](const std::function<void(File&)>& change) {
        const TempDir folder;
        Mixed mixed;
        change(mixed.file);
        return mixed.load(folder).value().fingerprint();
    };
    const std::string base = fingerprint([](File&) {});
    EXPECT_EQ(base, fingerprint([](File&) {}));
    for (const std::string& name :
         {kUp + ".weight", kUp + ".weight.absmax", kUp + ".weight.nested_absmax",
          kUp + ".weight.nested_quant_map", std::string("model.layers.1.self_attn.o_proj.SCB")}) {
        EXPECT_NE(base, fingerprint([&](File& file) { file.flip(name); })) << name;
    }
    EXPECT_NE(base, fingerprint([](File& file) {
                  std::string text = file.text(kUp + kState);
                  text.replace(text.find("0.0625"), 6, "0.0626");
                  file.replace_text(kUp + kState, text);
              }));
}

TEST(Quantized, RefusesFilesThatDoNotFitAndNamesTheTensor) {
    const std::string weight = kUp + ".weight";
    const std::string o = "model.layers.1.self_attn.o_proj";
    const auto state = [&](const std::string& from, const std::string& to) {
        return [=](File& file) {
            std::string text = file.text(kUp + kState);
            const auto at = text.find(from);
            ASSERT_NE(at, std::string::npos);
            file.replace_text(kUp + kState, text.replace(at, from.size(), to));
        };
    };
    struct Case {
        std::string tensor;
        std::function<void(File&)> tamper;
        std::string words;
    };
    const std::vector<float> few(3, 1.0F);
    const std::vector<std::uint8_t> bytes(7, 1);
    const std::vector<Case> cases{
        {weight,
         [&](File& f) {
             f.remove(weight);
             f.add(weight, DType::U8, {7, 1}, bytes);
         },
         "189 bytes"},
        {weight + ".absmax", [&](File& f) { f.remove(weight + ".absmax"); }, "missing"},
        {weight + ".absmax",
         [&](File& f) {
             f.remove(weight + ".absmax");
             f.add(weight + ".absmax", DType::F32, {3}, few);
         },
         "6 elements of U8"},
        {weight + ".nested_absmax", [&](File& f) { f.remove(weight + ".nested_absmax"); }, "missing"},
        {weight + ".nested_absmax",
         [&](File& f) {
             f.remove(weight + ".nested_absmax");
             f.add(weight + ".nested_absmax", DType::F32, {3}, few);
         },
         "1 elements of F32"},
        {weight + ".nested_quant_map",
         [&](File& f) {
             f.remove(weight + ".nested_quant_map");
             f.add(weight + ".nested_quant_map", DType::F32, {3}, few);
         },
         "256 elements"},
        {weight + ".quant_map", [&](File& f) { f.remove(weight + ".quant_map"); }, "missing"},
        {weight + ".quant_map",
         [&](File& f) {
             f.remove(weight + ".quant_map");
             f.add(weight + ".quant_map", DType::F32, {16}, std::vector<float>(16));
         },
         "code book"},
        {kUp + kState, [&](File& f) { f.replace_text(kUp + kState, "{\"quant_type\": "); }, "JSON"},
        {kUp + kState, [&](File& f) { f.replace_text(kUp + kState, "[]"); }, "quant_type"},
        {kUp + kState, [&](File& f) { f.replace_text(kUp + kState, std::string(5000, ' ')); }, "4096 bytes"},
        {kUp + kState, state("nf4", "fp4"), "quant_type"},
        {kUp + kState, state("[27, 14]", "[14, 27]"), "[27, 14]"},
        {kUp + kState, state("\"blocksize\": 64", "\"blocksize\": 48"), "power of two"},
        {kUp + kState, state("\"blocksize\": 64", "\"blocksize\": 8192"), "power of two"},
        {kUp + kState, state("\"blocksize\": 64", "\"blocksize\": -64"), "power of two"},
        {kUp + kState, state("\"blocksize\": 64", "\"blocksize\": \"64\""), "power of two"},
        {weight + ".absmax", state("\"blocksize\": 64", "\"blocksize\": 32"), "12 elements"},
        {kUp + kState, state("256", "128"), "nested_blocksize"},
        {kUp + kState, state("\"nested_dtype\": \"float32\"", "\"nested_dtype\": \"float16\""),
         "nested_dtype"},
        {kUp + kState, state("0.0625", "\"much\""), "nested_offset"},
        {weight, state("0.0625", "1e39"), "not finite"},
        {o + ".SCB",
         [&](File& f) {
             f.remove(o + ".SCB");
             f.add(o + ".SCB", DType::F32, {3}, few);
         },
         "14 elements"},
        {o + ".weight",
         [&](File& f) {
             f.named(o + ".weight").shape = {12, 14};
         },
         "[14, 12]"},
        {o + ".weight", [&](File& f) { f.remove(o + ".SCB"); }, "bitsandbytes"},
        {o + ".weight_format",
         [&](File& f) {
             f.remove(o + ".weight_format");
             f.add(o + ".weight_format", DType::U8, {}, std::vector<std::uint8_t>{1});
         },
         "format 0"},
        {o + ".weight",
         [&](File& f) {
             f.remove(o + ".SCB");
             f.add(o + ".SCB", DType::F32, {14},
                   std::vector<float>(14, std::numeric_limits<float>::quiet_NaN()));
         },
         "not finite"},
        {"model.embed_tokens.weight",
         [&](File& f) { quantize_in(f, "model.embed_tokens", 11, 14, WeightType::NF4, false); },
         "only linear"},
        {"model.layers.0.self_attn.q_proj.weight.nested_absmax",
         [&](File& f) {
             f.add("model.layers.0.self_attn.q_proj.weight.nested_absmax", DType::F32, {3}, few);
         },
         "no such tensor"},
    };
    for (const Case& bad : cases) {
        SCOPED_TRACE(bad.tensor + ": " + bad.words);
        const TempDir folder;
        Mixed mixed;
        bad.tamper(mixed.file);
        const auto model = mixed.load(folder);
        ASSERT_FALSE(model.has_value());
        const std::string& message = model.error().message;
        EXPECT_TRUE(message.starts_with((folder.path() / "model.safetensors").string())) << message;
        EXPECT_NE(message.find("'" + bad.tensor + "'"), std::string::npos) << message;
        EXPECT_NE(message.find(bad.words), std::string::npos) << message;
    }
}

// The same bytes whatever type they were saved as (bnb_4bit_quant_storage).
TEST(Quantized, CodesMayBeStoredAsAnotherType) {
    const TempDir folder;
    Mixed mixed;
    const std::string name = "model.layers.0.self_attn.q_proj.weight";
    mixed.file.named(name).dtype = DType::BF16;
    mixed.file.named(name).shape = {42, 1};
    const auto model = mixed.load(folder);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    EXPECT_EQ(full_parameters(*model), mixed.expected);
}

TEST(Quantized, HoldsLinearLayersAsTheJobSays) {
    const TempDir folder;
    const auto parameters = initial_full(tiny(), 5);
    ASSERT_TRUE(write_model_folder(folder.path(), tiny(), parameters, WeightsFormat::F32).has_value());
    const std::string fingerprint = BaseModel::load(folder.path()).value().fingerprint();
    kernels::ThreadPool pool(1);
    for (const auto storage : {BaseStorage::Bf16, BaseStorage::Int8, BaseStorage::Nf4, BaseStorage::Fp4}) {
        const auto model = BaseModel::load(folder.path(), {storage});
        ASSERT_TRUE(model.has_value()) << model.error().message;
        EXPECT_EQ(model->fingerprint(), fingerprint);
        EXPECT_EQ(model->weights().layers[1][kGate].weight.type, held_type(storage));
        EXPECT_EQ(model->weights().at(kEmbedding).weight.type, WeightType::F32);
        EXPECT_EQ(model->weights().at(kHead).weight.type, WeightType::F32);
        const auto values = full_parameters(*model);
        for (std::size_t i = 0; i < parameters.manifest().tensors().size(); ++i) {
            const auto& spec = parameters.manifest().tensors()[i];
            const auto from = parameters.tensor(i);
            std::vector<float> expected(from.begin(), from.end());
            const bool linear = spec.shape.size() == 2 && spec.name.find("layers") != std::string::npos;
            if (linear) {
                const auto held =
                    hold_as(pool, {from.data(), WeightType::F32, spec.shape[0], spec.shape[1]}, storage);
                kernels::dequantize(pool, held.value().view, expected);
                EXPECT_FALSE(std::ranges::equal(expected, from)) << spec.name;
            }
            EXPECT_TRUE(std::ranges::equal(expected, values.tensor(i))) << spec.name;
        }
    }
}

TEST(Quantized, AHalfPrecisionFileIsQuantisedFromItsValues) {
    const TempDir folder;
    const auto parameters = initial_full(tiny(), 5);
    ASSERT_TRUE(write_model_folder(folder.path(), tiny(), parameters, WeightsFormat::BF16).has_value());
    const auto model = BaseModel::load(folder.path(), {BaseStorage::Bf16}).value();  // as it is
    EXPECT_EQ(full_parameters(model), full_parameters(BaseModel::load(folder.path()).value()));
    EXPECT_EQ(BaseModel::load(folder.path(), {BaseStorage::Nf4}).value().weights().layers[0][kQ].weight.type,
              WeightType::NF4);
}

TEST(Quantized, WhatIsQuantisedStaysAsItIsOrIsRefused) {
    Mixed mixed;
    const TempDir folder;
    const auto refused = mixed.load(folder, BaseStorage::Int8);
    ASSERT_FALSE(refused.has_value());
    EXPECT_NE(refused.error().message.find("as_stored"), std::string::npos) << refused.error().message;
}

TEST(Quantized, AValueThatIsNotFiniteIsNamed) {
    const TempDir folder;
    auto parameters = initial_full(tiny(), 5);
    parameters.tensor(*parameters.manifest().find(kUp + ".weight"))[40] =
        std::numeric_limits<float>::infinity();
    ASSERT_TRUE(write_model_folder(folder.path(), tiny(), parameters, WeightsFormat::F32).has_value());
    for (const auto storage : {BaseStorage::Int8, BaseStorage::Nf4}) {
        const auto model = BaseModel::load(folder.path(), {storage});
        ASSERT_FALSE(model.has_value());
        EXPECT_NE(model.error().message.find("'" + kUp + ".weight'"), std::string::npos)
            << model.error().message;
        EXPECT_NE(model.error().message.find("not finite"), std::string::npos) << model.error().message;
    }
}

TEST(Quantized, LoadsTheCheckpointOfOthers) {
    const char* assets = std::getenv("FEDLLM_ASSETS");
    const Path folder = Path(assets ? assets : "../shared/assets") / "nf4/tinystories-656k-bnb-nf4";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there; set FEDLLM_ASSETS";
    const auto model = BaseModel::load(folder);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    for (const auto& layer : model->weights().layers) {
        EXPECT_EQ(layer[kQ].weight.type, WeightType::NF4);
        EXPECT_EQ(layer[kDown].weight.type, WeightType::NF4);
    }
    EXPECT_EQ(model->weights().at(kHead).weight.type, WeightType::F32);
}

}  // namespace
}  // namespace fedllm::client::model
