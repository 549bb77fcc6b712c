#include "client/model/base_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>

#include "client/model/manifests.hpp"
#include "tests/support/safetensors_bytes.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::model {
namespace {

using formats::TensorToWrite;
using tensor::DType;
using tensor::ParamSet;
using test::TempDir;

ModelConfig tiny(bool tied) {
    return {.hidden = 8,
            .layers = 2,
            .heads = 4,
            .kv_heads = 2,
            .head_size = 2,
            .intermediate = 12,
            .vocab = 11,
            .context = 16,
            .tied_head = tied,
            .attention_bias = true,
            .bos = 1,
            .eos = 2};
}

// A model folder of which one tensor list was tampered with.
using Tamper = std::function<void(std::vector<TensorToWrite>&)>;

void write_tampered(const Path& folder, const ModelConfig& config, const ParamSet& parameters,
                    const Tamper& tamper) {
    ASSERT_TRUE(write_model_folder(folder, config, parameters, WeightsFormat::F32).has_value());
    std::vector<TensorToWrite> tensors;
    const auto specs = parameters.manifest().tensors();
    for (std::size_t i = 0; i < specs.size(); ++i) {
        tensors.push_back({specs[i].name, DType::F32, specs[i].shape, std::as_bytes(parameters.tensor(i))});
    }
    tamper(tensors);
    ASSERT_TRUE(formats::write_safetensors(folder / "model.safetensors", tensors).has_value());
}

TensorToWrite& named(std::vector<TensorToWrite>& tensors, std::string_view name) {
    for (TensorToWrite& tensor : tensors) {
        if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors.front();
}

TEST(BaseModel, LoadsWhatWasWrittenInPlace) {
    for (const bool tied : {false, true}) {
        const TempDir folder;
        const auto parameters = initial_full(tiny(tied), 5);
        ASSERT_TRUE(
            write_model_folder(folder.path(), tiny(tied), parameters, WeightsFormat::F32).has_value());
        auto loaded = BaseModel::load(folder.path());
        ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
        const BaseModel model = *std::move(loaded);
        EXPECT_EQ(model.config(), tiny(tied));
        EXPECT_EQ(full_parameters(model), parameters);

        const ModelWeights& weights = model.weights();
        EXPECT_EQ(weights.at(kK, 1).weight.rows, 4u);
        EXPECT_EQ(weights.at(kK, 1).weight.cols, 8u);
        EXPECT_EQ(weights.at(kO, 1).bias.size(), 8u);
        EXPECT_TRUE(weights.at(kGate, 1).bias.empty());
        EXPECT_EQ(weights.at(kHead).weight.rows, 11u);
        EXPECT_EQ(weights.at(kHead).weight.data == weights.at(kEmbedding).weight.data, tied);
        const auto down =
            parameters.tensor(parameters.manifest().find("model.layers.1.mlp.down_proj.weight").value());
        EXPECT_EQ(static_cast<const float*>(weights.at(kDown, 1).weight.data)[95], down[95]);
    }
}

TEST(BaseModel, WeightsOfAParamSetAreItsOwn) {
    const auto parameters = initial_full(tiny(false), 5);
    const ModelWeights weights = weights_of(tiny(false), parameters);
    EXPECT_EQ(weights.at(kEmbedding).weight.data, parameters.values().data());
    EXPECT_EQ(weights.layers.size(), 2u);
    EXPECT_EQ(weights.at(kFinalNorm).weight.cols, 8u);
    EXPECT_EQ(static_cast<const float*>(weights.at(kHead).weight.data) + 88,
              parameters.values().data() + parameters.values().size());
}

TEST(BaseModel, Bf16StaysBf16AndIsRounded) {
    const TempDir folder;
    const auto parameters = initial_full(tiny(true), 5);
    ASSERT_TRUE(write_model_folder(folder.path(), tiny(true), parameters, WeightsFormat::BF16).has_value());
    const BaseModel model = BaseModel::load(folder.path()).value();
    EXPECT_EQ(model.weights().at(kQ).weight.type, kernels::WeightType::BF16);
    EXPECT_EQ(static_cast<const float*>(model.weights().at(kInputNorm).weight.data)[0], 1.0F);
    const auto read = full_parameters(model);
    for (std::size_t i = 0; i < read.values().size(); ++i) {
        EXPECT_EQ(read.values()[i], tensor::bf16_to_f32(tensor::f32_to_bf16(parameters.values()[i])));
    }
}

TEST(BaseModel, F16IsConverted) {
    const TempDir folder;
    const std::vector<std::uint16_t> halves(64, 0x3800);  // 0.5
    write_tampered(folder.path(), tiny(true), initial_full(tiny(true), 5), [&](auto& tensors) {
        auto& q = named(tensors, "model.layers.0.self_attn.q_proj.weight");
        q.dtype = DType::F16;
        q.bytes = std::as_bytes(std::span(halves));
    });
    const BaseModel model = BaseModel::load(folder.path()).value();
    const auto& q = model.weights().at(kQ).weight;
    EXPECT_EQ(q.type, kernels::WeightType::F32);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(static_cast<const float*>(q.data)[i], 0.5F);
}

TEST(BaseModel, UnalignedDataIsCopied) {
    const TempDir folder;
    const auto parameters = initial_full(tiny(true), 5);
    ASSERT_TRUE(write_model_folder(folder.path(), tiny(true), parameters, WeightsFormat::F32).has_value());
    const Path path = folder.path() / "model.safetensors";
    const std::string whole = read_file(path).value();
    const std::size_t data = whole.size() - parameters.values().size_bytes();
    const std::string header = whole.substr(8, data - 8) + " ";  // one byte more moves all the data
    test::write_bytes(path, test::safetensors_bytes(header, std::string_view(whole).substr(data)));
    const BaseModel model = BaseModel::load(folder.path()).value();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(model.weights().at(kQ).weight.data) % sizeof(float), 0u);
    EXPECT_EQ(full_parameters(model), parameters);
}

TEST(BaseModel, TiedTableUnderEitherNameOrBoth) {
    const auto parameters = initial_full(tiny(true), 5);
    const TempDir folder;
    write_tampered(folder.path(), tiny(true), parameters,
                   [](auto& tensors) { tensors[0].name = "lm_head.weight"; });
    const BaseModel other_name = BaseModel::load(folder.path()).value();
    EXPECT_EQ(full_parameters(other_name), parameters);
    const std::string fingerprint = other_name.fingerprint();

    write_tampered(folder.path(), tiny(true), parameters, [](auto& tensors) {
        tensors.push_back(tensors[0]);
        tensors.back().name = "lm_head.weight";
    });
    EXPECT_EQ(BaseModel::load(folder.path()).value().fingerprint(), fingerprint);

    write_tampered(folder.path(), tiny(true), parameters, [&](auto& tensors) {
        tensors.push_back(tensors[0]);
        tensors.back().name = "lm_head.weight";
        tensors.back().bytes = std::as_bytes(parameters.values().subspan(1, 88));
    });
    const auto differs = BaseModel::load(folder.path());
    ASSERT_FALSE(differs.has_value());
    EXPECT_NE(differs.error().message.find("'lm_head.weight'"), std::string::npos) << differs.error().message;
}

TEST(BaseModel, RefusesTensorsThatDoNotFitAndNamesThem) {
    const std::vector<std::int64_t> integers(8);
    struct Case {
        std::string tensor;
        Tamper tamper;
        std::string words;
    };
    const std::string up = "model.layers.1.mlp.up_proj.weight";
    const std::string norm = "model.norm.weight";
    const Case cases[] = {{up, [&](auto& t) { named(t, up).name = "x"; }, "lack"},
                          {up,
                           [&](auto& t) {
                               named(t, up).shape = {8, 12};
                           },
                           "[12, 8]"},
                          {up, [&](auto& t) { named(t, up).shape = {96}; }, "[12, 8]"},
                          {norm,
                           [&](auto& t) {
                               named(t, norm).dtype = DType::I64;
                               named(t, norm).bytes = std::as_bytes(std::span(integers));
                           },
                           "F32, F16 or BF16"},
                          {"model.layers.0.self_attn.q_norm.weight",
                           [&](auto& t) {
                               t.push_back(named(t, norm));
                               t.back().name = "model.layers.0.self_attn.q_norm.weight";
                           },
                           "no such tensor"},
                          {"model.layers.2.input_layernorm.weight",
                           [&](auto& t) {
                               t.push_back(named(t, norm));
                               t.back().name = "model.layers.2.input_layernorm.weight";
                           },
                           "no such tensor"}};
    for (const Case& bad : cases) {
        const TempDir folder;
        write_tampered(folder.path(), tiny(false), initial_full(tiny(false), 5), bad.tamper);
        const auto model = BaseModel::load(folder.path());
        ASSERT_FALSE(model.has_value()) << bad.tensor;
        EXPECT_EQ(model.error().code, Errc::InvalidModel);
        EXPECT_TRUE(model.error().message.starts_with(folder.path().string())) << model.error().message;
        EXPECT_NE(model.error().message.find(bad.tensor), std::string::npos) << model.error().message;
        EXPECT_NE(model.error().message.find(bad.words), std::string::npos) << model.error().message;
    }
}

TEST(BaseModel, IgnoresSavedRopeFrequencies) {
    const TempDir folder;
    write_tampered(folder.path(), tiny(true), initial_full(tiny(true), 5), [](auto& tensors) {
        tensors.push_back(named(tensors, "model.norm.weight"));
        tensors.back().name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    });
    EXPECT_TRUE(BaseModel::load(folder.path()).has_value());
}

TEST(BaseModel, FingerprintFollowsContentNotFolder) {
    const auto fingerprint = [](const ModelConfig& config, const ParamSet& parameters, WeightsFormat format) {
        const TempDir folder;
        EXPECT_TRUE(write_model_folder(folder.path(), config, parameters, format).has_value());
        return BaseModel::load(folder.path()).value().fingerprint();
    };
    const auto parameters = initial_full(tiny(true), 5);
    const std::string base = fingerprint(tiny(true), parameters, WeightsFormat::F32);
    EXPECT_EQ(base.size(), 64u);
    EXPECT_EQ(base, fingerprint(tiny(true), parameters, WeightsFormat::F32));

    EXPECT_NE(base, fingerprint(tiny(true), parameters, WeightsFormat::BF16));
    auto changed = parameters;
    changed.values().back() += 1.0F;
    EXPECT_NE(base, fingerprint(tiny(true), changed, WeightsFormat::F32));
    ModelConfig theta = tiny(true);
    theta.rope_theta = 20000;
    EXPECT_NE(base, fingerprint(theta, parameters, WeightsFormat::F32));
    ModelConfig context = tiny(true);  // how long inputs may be does not change what is computed
    context.context = 32;
    EXPECT_EQ(base, fingerprint(context, parameters, WeightsFormat::F32));
}

// Pinned: servers and clients of different versions compare it.
TEST(BaseModel, FingerprintOfAPlainModelStays) {
    EXPECT_EQ(BaseModel::load("tests/golden/llama/gqa").value().fingerprint(),
              "fab69b136c253c3474da2b35e9a85d0d9350bcbf834d9a15e979de1077ba05c8");
}

TEST(BaseModel, FingerprintNamesWhatChangesTheComputation) {
    std::set<std::string> seen;
    const auto add = [&](const ModelConfig& config) {
        const TempDir folder;
        ASSERT_TRUE(write_model_folder(folder.path(), config, initial_full(config, 5), WeightsFormat::F32)
                        .has_value());
        seen.insert(BaseModel::load(folder.path()).value().fingerprint());
    };
    ModelConfig config = tiny(true);
    config.attention_bias = false;
    add(config);
    config.family = find_family("mistral");
    config.window = 3;
    add(config);
    config.window = 4;
    add(config);
    config.family = find_family("qwen2");
    add(config);
    config.window_from = 1;
    add(config);
    config = tiny(true);
    config.rope_scaling = {RopeScaling::Kind::Linear, 2.0};
    add(config);
    config.rope_scaling.factor = 4.0;
    add(config);
    config.rope_scaling = {RopeScaling::Kind::Llama3, 4.0, 1.0, 4.0, 8};
    add(config);
    config.rope_scaling.original_context = 12;
    add(config);
    EXPECT_EQ(seen.size(), 9u);
}

// The golden GPT-2 with one list of tensors tampered with.
Result<BaseModel> load_gpt2(const Tamper& tamper) {
    const TempDir folder;
    const Path golden = "tests/golden/families/gpt2";
    std::filesystem::copy_file(golden / "config.json", folder.path() / "config.json");
    const auto file = formats::SafetensorsFile::open(golden / "model.safetensors").value();
    std::vector<TensorToWrite> tensors;
    for (const auto& info : file.tensors())
        tensors.push_back({info.name, info.dtype, info.shape, info.bytes});
    tamper(tensors);
    EXPECT_TRUE(formats::write_safetensors(folder.path() / "model.safetensors", tensors).has_value());
    return BaseModel::load(folder.path());
}

TEST(BaseModel, Gpt2WithoutThePrefixAndWithMaskBuffersIsTheSameModel) {
    const std::vector<float> mask(16);
    const BaseModel plain = load_gpt2([](auto&) {}).value();
    const BaseModel hub =
        load_gpt2([&](auto& tensors) {
            for (auto& tensor : tensors) tensor.name = tensor.name.substr(std::strlen("transformer."));
            for (const char* name : {"h.0.attn.bias", "h.1.attn.masked_bias"}) {
                tensors.push_back({name, DType::F32, {1, 1, 4, 4}, std::as_bytes(std::span(mask))});
            }
        }).value();
    EXPECT_EQ(hub.fingerprint(), plain.fingerprint());
    EXPECT_EQ(full_parameters(hub), full_parameters(plain));
}

// Conv1D: as the file has it in training, turned for the kernels.
TEST(BaseModel, Gpt2LinearWeightsAreTurned) {
    const BaseModel model = load_gpt2([](auto&) {}).value();
    const auto parameters = full_parameters(model);
    const auto file =
        parameters.tensor(parameters.manifest().find("transformer.h.1.mlp.c_fc.weight").value());
    const auto& up = model.weights().at(kUp, 1).weight;
    EXPECT_EQ(up.rows, 96u);
    EXPECT_EQ(up.cols, 24u);
    for (std::size_t out = 0; out < 96; ++out) {
        for (std::size_t in = 0; in < 24; ++in) {
            ASSERT_EQ(static_cast<const float*>(up.data)[out * 24 + in], file[in * 96 + out]);
        }
    }
    const TempDir folder;
    ASSERT_TRUE(
        write_model_folder(folder.path(), model.config(), parameters, WeightsFormat::BF16).has_value());
    const BaseModel narrow = BaseModel::load(folder.path()).value();
    const auto& half = narrow.weights().at(kUp, 1).weight;
    EXPECT_EQ(half.type, kernels::WeightType::BF16);
    EXPECT_EQ(static_cast<const std::uint16_t*>(half.data)[24 * 5 + 3],
              tensor::f32_to_bf16(file[3 * 96 + 5]));
}

TEST(BaseModel, Gpt2MayLackTheBiasOfQkvAndNothingElse) {
    const std::string bias = "transformer.h.0.attn.c_attn.bias", other = "transformer.h.0.attn.c_proj.bias";
    const auto without = [](const std::string& name) {
        return [name](auto& tensors) {
            std::erase_if(tensors, [&](const TensorToWrite& tensor) { return tensor.name == name; });
        };
    };
    const BaseModel model = load_gpt2(without(bias)).value();
    const auto& zeros = model.weights().at(kQkv).bias;
    EXPECT_EQ(zeros.size(), 72u);
    EXPECT_TRUE(std::all_of(zeros.begin(), zeros.end(), [](float value) { return value == 0; }));
    const auto parameters = full_parameters(model);
    EXPECT_EQ(parameters.tensor(parameters.manifest().find(bias).value())[5], 0.0F);
    const auto refused = load_gpt2(without(other));
    ASSERT_FALSE(refused.has_value());
    EXPECT_NE(refused.error().message.find(other), std::string::npos) << refused.error().message;
    const auto turned = load_gpt2([](auto& tensors) {
        auto& weight = named(tensors, "transformer.h.0.attn.c_attn.weight");
        std::swap(weight.shape[0], weight.shape[1]);
    });
    ASSERT_FALSE(turned.has_value());
    EXPECT_NE(turned.error().message.find("[24, 72]"), std::string::npos) << turned.error().message;
}

TEST(BaseModel, WritingRefusesParametersOfAnotherModel) {
    const TempDir folder;
    const auto result =
        write_model_folder(folder.path() / "x", tiny(true), initial_full(tiny(false), 5), WeightsFormat::F32);
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Errc::ManifestMismatch);
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "x"));
}

TEST(BaseModel, LoadsTrainedModelsOfOthers) {
    const char* assets = std::getenv("FEDLLM_ASSETS");
    const Path models = Path(assets ? assets : "../shared/assets") / "models";
    if (!std::filesystem::exists(models)) GTEST_SKIP() << models << " is not there; set FEDLLM_ASSETS";
    for (const char* name : {"babyllama-tok105", "stories260K", "tinystories-656k"}) {
        const auto model = BaseModel::load(models / name);
        ASSERT_TRUE(model.has_value()) << model.error().message;
        EXPECT_TRUE(model->config().tied_head) << name;
    }
    const auto sorter = BaseModel::load(models / "gpt-nano-sort");
    ASSERT_TRUE(sorter.has_value()) << sorter.error().message;
    EXPECT_FALSE(sorter->config().tied_head);
}

}  // namespace
}  // namespace fedllm::client::model
