// A whole site in a temporary folder: a tiny model with its tokenizer, data, and a client's configuration.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "client/agent/client_config.hpp"
#include "client/agent/machine.hpp"
#include "client/agent/version_store.hpp"
#include "client/data/byte_level.hpp"
#include "client/data/unicode.hpp"
#include "client/model/base_model.hpp"
#include "client/model/manifests.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::agent {

inline model::ModelConfig tiny_config() {
    model::ModelConfig config;
    config.hidden = 16;
    config.layers = 1;
    config.heads = 2;
    config.kv_heads = 1;
    config.head_size = 8;
    config.intermediate = 24;
    config.vocab = 256;
    config.context = 64;
    config.tied_head = true;
    return config;
}

// One token per byte, no merges.
inline std::string byte_tokenizer() {
    nlohmann::json vocabulary = nlohmann::json::object();
    for (int byte = 0; byte < 256; ++byte) {
        std::string key;
        data::append_utf8(key, data::byte_character(static_cast<unsigned char>(byte)));
        vocabulary[key] = byte;
    }
    const nlohmann::json level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    return nlohmann::json{
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", nlohmann::json::array()},
        {"normalizer", nullptr},
        {"pre_tokenizer", level},
        {"post_processor", nullptr},
        {"decoder", level},
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}}
        .dump();
}

class Site {
public:
    Site() {
        const Path model = folder_.path() / "model";
        EXPECT_TRUE(make_directories(model));
        const auto weights = model::initial_full(tiny_config(), 7);
        const auto written =
            model::write_model_folder(model, tiny_config(), weights, model::WeightsFormat::F32);
        EXPECT_TRUE(written) << written.error().message;
        EXPECT_TRUE(write_file_atomically(model / "tokenizer.json", byte_tokenizer()));
        std::string lines;
        for (int i = 0; i < 40; ++i)
            lines += "{\"text\": \"the quick brown fox " + std::to_string(i) + "\"}\n";
        EXPECT_TRUE(write_file_atomically(folder_.path() / "train.jsonl", lines));
    }

    ClientConfig config() const {
        ClientConfig config;
        config.server.host = "memory";
        config.models["tiny"] = folder_.path() / "model";
        config.data.path = folder_.path() / "train.jsonl";
        config.state_directory = folder_.path() / "state";
        config.device = train::Device::Cpu;  // the same bits on every machine
        config.threads = 1;
        return config;
    }

    job::JobSpec job() const {
        job::JobSpec job;
        job.name = "test";
        job.base_model = "tiny";
        job.lora.rank = 2;
        job.lora.target_modules = {"q_proj", "v_proj"};
        job.rounds = 3;
        job.update.codec = job.download.codec = {};  // plain values: what is sent can be compared
        job.train.local_steps = 4;
        job.train.batch_rows = 2;
        job.train.sequence_length = 32;
        return job;
    }

    // The bytes of the job's first version, as a server would send them.
    std::string version(const job::JobSpec& job) const {
        const auto manifest = model::lora_manifest(tiny_config(), job.lora);
        const auto params = model::initial_lora(*manifest, job.seed);
        return bytes_of(params);
    }
    std::string bytes_of(const tensor::ParamSet& params) const {
        const Path file = folder_.path() / "version.safetensors";
        EXPECT_TRUE(formats::write_param_set(file, params));
        return read_file(file).value();
    }

    // A task of the job from its first version, which `versions` then holds.
    Task task(TaskKind kind, const job::JobSpec& job, const VersionStore& versions) const {
        const std::string text = version(job);
        const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
        Task task;
        task.id = TaskId("t");
        task.kind = kind;
        task.job_id = JobId("j");
        task.job = job;
        task.model_digest = crypto::to_hex(crypto::sha256(text));
        task.model_bytes = bytes.size();
        auto writer = versions.resume(task.model_digest, bytes.size()).value();
        if (writer.held() < bytes.size()) {
            EXPECT_TRUE(writer.append(writer.held(), bytes.subspan(writer.held())));
        }
        return task;
    }

    const Path& folder() const { return folder_.path(); }

private:
    test::TempDir folder_;
};

}  // namespace fedllm::client::agent
