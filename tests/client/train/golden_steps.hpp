// Ten steps of PyTorch's AdamW on tests/golden's models (make_llama_golden.py), for trainers on any device.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "client/train/trainer.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::client::train::testing {

using data::Example;
using tensor::ParamSet;

inline const Path kGolden = "tests/golden";

inline job::JobSpec tiny_job(std::uint32_t sequence_length) {
    job::JobSpec job;
    job.lora = {
        .rank = 4,
        .alpha = 8,
        .target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
    job.train.batch_rows = 2;
    job.train.sequence_length = sequence_length;
    job.train.packing = false;
    return job;
}

struct Case {
    const char* model;
    const char* run;
};
inline std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.model << "/" << c.run; }

class GoldenSteps : public ::testing::TestWithParam<Case> {
protected:
    Path folder = kGolden / GetParam().model;
    std::string run = GetParam().run;
    model::BaseModel base = model::BaseModel::load(folder).value();
    formats::SafetensorsFile expected =
        formats::SafetensorsFile::open(folder / "expected.safetensors").value();

    std::vector<float> values(const std::string& name) const {
        return formats::read_floats(*expected.find(run + "." + name)).value();
    }
    std::vector<Example> examples() const {
        const std::size_t length = expected.find("tokens")->shape[1];
        std::vector<Example> rows(2);
        for (std::size_t row = 0; row < 2; ++row) {
            rows[row].tokens = integers("tokens", row * length, length);
            rows[row].targets = integers("targets", row * length, length);
        }
        return rows;
    }
    std::vector<std::int32_t> integers(const char* name, std::size_t first, std::size_t count) const {
        std::vector<std::int32_t> out(count);
        std::memcpy(out.data(), expected.find(name)->bytes.data() + first * 4, count * 4);
        return out;
    }
    job::JobSpec job_of(std::size_t length) const {
        job::JobSpec spec = tiny_job(static_cast<std::uint32_t>(length));
        spec.method = run == "full" ? job::Method::Full : job::Method::Lora;
        if (base.config().family->model_type == "gpt2") {
            spec.lora.target_modules = {"c_attn", "c_proj", "c_fc"};
        }
        if (run == "qv") spec.lora.target_modules = {"q_proj", "v_proj"};
        spec.lora.rslora = run == "qv" && std::string_view(GetParam().model) == "llama/long_rope";
        spec.train.local_steps = 10;
        return spec;
    }
    ParamSet start(const tensor::Manifest& manifest) const {
        if (run == "full") return model::full_parameters(base);
        const auto file =
            formats::SafetensorsFile::open(folder / ("adapter_" + run) / "adapter_model.safetensors");
        ParamSet params(manifest);
        for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
            formats::read_floats(*file->find(manifest.tensors()[i].name), params.tensor(i)).value();
        }
        return params;
    }
};

}  // namespace fedllm::client::train::testing
