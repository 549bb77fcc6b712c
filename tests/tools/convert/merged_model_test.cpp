#include "tools/convert/merged_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "client/model/base_model.hpp"
#include "common/formats/safetensors.hpp"
#include "tests/client/engine/tiny_model.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::tools::convert {
namespace {

using namespace client::engine::testing;
using client::engine::Network;
using client::engine::Transformer;
using client::model::BaseModel;
using client::model::WeightsFormat;
using formats::LoadedAdapter;
using tensor::DType;

class MergedModel : public ::testing::Test {
protected:
    MergedModel() {
        client::model::write_model_folder(base, config, random_full(config, 3), WeightsFormat::F32).value();
        write_file_atomically(base / "tokenizer.json", "tokens").value();
        adapter.spec = all_targets();
        adapter.spec.rslora = true;
        adapter.spec.modules = {{"model.layers.1.mlp.up_proj", 3, 1.5}};
        adapter.parameters = random_lora(config, adapter.spec, 5);
    }

    std::vector<float> logits(const Path& where, const LoadedAdapter* with) {
        const auto model = BaseModel::load(where).value();
        const tensor::ParamSet none;
        const auto& params = with != nullptr ? with->parameters : none;
        auto network = Network::create(config, model.weights(), params.manifest(),
                                       with != nullptr ? tensor::LoraScales(with->spec) : 1.0)
                           .value();
        auto transformer = Transformer::create(pool, network, {2, 20}).value();
        const OwnedBatch batch = random_batch(2, 20, config.vocab, 1);
        std::vector<std::int32_t> places(40);
        std::iota(places.begin(), places.end(), 0);
        std::vector<float> rows(40 * config.vocab);
        transformer.logits(batch.view(), params, places, {rows.data(), 40, config.vocab}).value();
        return rows;
    }
    static double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
        double largest = 0;
        for (std::size_t i = 0; i < a.size(); ++i) largest = std::max<double>(largest, std::abs(a[i] - b[i]));
        return largest;
    }
    Error refused(std::optional<DType> dtype = std::nullopt) {
        const auto written = write_merged_model(out, base, adapter, dtype, pool);
        EXPECT_FALSE(written);
        return written ? Error{} : written.error();
    }

    test::TempDir folder;
    Path base = folder.path() / "base", out = folder.path() / "out";
    client::model::ModelConfig config = tiny_config();
    LoadedAdapter adapter;
    kernels::ThreadPool pool{2};
};

TEST_F(MergedModel, ComputesWhatBaseAndAdapterCompute) {
    const auto expected = logits(base, &adapter);
    EXPECT_GT(largest_difference(expected, logits(base, nullptr)), 0.1);
    write_merged_model(out, base, adapter, std::nullopt, pool).value();
    EXPECT_LT(largest_difference(expected, logits(out, nullptr)), 2e-5);
    EXPECT_EQ(read_file(out / "tokenizer.json").value(), "tokens");
    EXPECT_EQ(read_file(out / "config.json").value(), read_file(base / "config.json").value());
}

TEST_F(MergedModel, KeepsOrChangesTheTypeOfTheWeights) {
    const auto dtype_of = [&](const Path& where) {
        const auto file = formats::SafetensorsFile::open(where / "model.safetensors").value();
        for (const auto& tensor : file.tensors())
            EXPECT_EQ(tensor.dtype, file.tensors()[0].dtype) << tensor.name;
        return file.tensors()[0].dtype;
    };
    const auto config_of = [&](const Path& where) {
        const auto json = nlohmann::json::parse(read_file(where / "config.json").value());
        return json.contains("dtype") ? json["dtype"] : json["torch_dtype"];
    };
    const auto expected = logits(base, &adapter);
    for (const auto& [type, name] : {std::pair{DType::BF16, "bfloat16"}, std::pair{DType::F16, "float16"}}) {
        write_merged_model(out, base, adapter, type, pool).value();
        EXPECT_EQ(dtype_of(out), type);
        EXPECT_EQ(config_of(out), name);
        EXPECT_LT(largest_difference(expected, logits(out, nullptr)), 0.3);
    }
    client::model::write_model_folder(base, config, random_full(config, 3), WeightsFormat::BF16).value();
    write_merged_model(out, base, adapter, std::nullopt, pool).value();
    EXPECT_EQ(dtype_of(out), DType::BF16);
}

// GPT-2 keeps (in, out); its files may leave "transformer." out.
TEST_F(MergedModel, Conv1dWeightsAreMetTransposed) {
    const std::vector<float> wide{1, 2, 3, 4, 5, 6};  // (2,3)
    const std::vector<float> square{1, 2, 3, 4};
    const std::vector<formats::TensorToWrite> tensors{
        {"h.0.attn.c_attn.weight", DType::F32, {2, 3}, std::as_bytes(std::span(wide))},
        {"h.0.attn.c_proj.weight", DType::F32, {2, 2}, std::as_bytes(std::span(square))}};
    formats::write_safetensors(base / "model.safetensors", tensors).value();
    write_file_atomically(base / "config.json", R"({"model_type": "gpt2"})").value();
    const std::string prefix = "base_model.model.transformer.h.0.attn.";
    adapter.spec = {1, 2, false, {"c_attn", "c_proj"}};
    adapter.parameters =
        tensor::ParamSet(tensor::Manifest::create({{prefix + "c_attn.lora_A.weight", {1, 2}},
                                                   {prefix + "c_attn.lora_B.weight", {3, 1}},
                                                   {prefix + "c_proj.lora_A.weight", {1, 2}},
                                                   {prefix + "c_proj.lora_B.weight", {2, 1}}})
                             .value());
    const std::vector<float> values{1, 10, 1, 2, 3, 1, 10, 1, 2};
    std::copy(values.begin(), values.end(), adapter.parameters.values().begin());
    write_merged_model(out, base, adapter, std::nullopt, pool).value();
    const auto file = formats::SafetensorsFile::open(out / "model.safetensors").value();
    // W[i][o] + 2 * A[i] * B[o].
    EXPECT_EQ(formats::read_floats(*file.find("h.0.attn.c_attn.weight")).value(),
              (std::vector<float>{1 + 2, 2 + 4, 3 + 6, 4 + 20, 5 + 40, 6 + 60}));
    EXPECT_EQ(formats::read_floats(*file.find("h.0.attn.c_proj.weight")).value(),
              (std::vector<float>{1 + 2, 2 + 4, 3 + 20, 4 + 40}));
}

TEST_F(MergedModel, KeepsTheFilesOfABaseInParts) {
    const auto whole = formats::SafetensorsFile::open(base / "model.safetensors").value();
    nlohmann::json index{{"metadata", {{"total_size", 1}}}};
    std::vector<formats::TensorToWrite> parts[2];
    for (const auto& tensor : whole.tensors()) {
        const std::size_t part = tensor.name.find("layers.1") != std::string::npos;
        parts[part].push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
        index["weight_map"][tensor.name] = "part-" + std::to_string(part) + ".safetensors";
    }
    for (const std::size_t part : {0U, 1U}) {
        formats::write_safetensors(base / ("part-" + std::to_string(part) + ".safetensors"), parts[part])
            .value();
    }
    const auto expected = logits(base, &adapter);
    std::filesystem::remove(base / "model.safetensors");
    write_file_atomically(base / "model.safetensors.index.json", index.dump()).value();
    write_merged_model(out, base, adapter, DType::F32, pool).value();
    EXPECT_TRUE(std::filesystem::exists(out / "part-1.safetensors"));
    EXPECT_LT(largest_difference(expected, logits(out, nullptr)), 2e-5);
}

TEST_F(MergedModel, RefusesBeforeItWrites) {
    const auto good = adapter;
    adapter.parameters.tensor(0)[0] = 1e30F;
    adapter.parameters.tensor(1)[0] = 1e30F;
    EXPECT_EQ(refused().code, Errc::NotFinite);
    adapter = good;
    std::filesystem::remove_all(out);

    client::model::ModelConfig other = config;
    other.layers = 2;
    client::model::write_model_folder(base, other, random_full(other, 3), WeightsFormat::F32).value();
    EXPECT_EQ(refused().code, Errc::ManifestMismatch);  // layer 2 is not there
    other = config;
    other.intermediate = 41;
    client::model::write_model_folder(base, other, random_full(other, 3), WeightsFormat::F32).value();
    EXPECT_EQ(refused().code, Errc::ManifestMismatch);
    write_file_atomically(base / "config.json", R"({"quantization_config": {}})").value();
    const Error quantised = refused();
    EXPECT_EQ(quantised.code, Errc::Unsupported);
    EXPECT_NE(quantised.message.find("quantization_config"), std::string::npos);
    out = base;
    EXPECT_EQ(refused().code, Errc::AlreadyExists);
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "out"));
}

}  // namespace
}  // namespace fedllm::tools::convert
