#include "client/agent/client_config.hpp"

#include <filesystem>
#include <set>

#include "common/hub/cache.hpp"
#include "common/protocol/limits.hpp"

namespace fedllm::client::agent {
namespace {

using config::field;
using config::Table;

constexpr std::uint64_t kRateMin = std::uint64_t{16} << 10;

Table<Policy> policy_table() {
    using C = Policy;
    return {
        field<C>(
            "methods", [](auto& c) -> auto& { return c.methods; }, "what jobs may train: lora, full"),
        field<C>(
            "target_modules", [](auto& c) -> auto& { return c.target_modules; },
            "layers that jobs may put adapters on; [] allows any"),
        field<C>("lora_rank_max", [](auto& c) -> auto& { return c.lora_rank_max; }, "largest adapter rank",
                 {.min = 1}),
        field<C>("sequence_length_max", [](auto& c) -> auto& { return c.sequence_length_max; },
                 "longest sequences, in tokens: memory grows with it", {.min = 8}),
        field<C>("batch_rows_max", [](auto& c) -> auto& { return c.batch_rows_max; },
                 "most sequences per step: memory grows with it", {.min = 1}),
        field<C>("local_steps_max", [](auto& c) -> auto& { return c.local_steps_max; },
                 "most optimiser steps per round", {.min = 1}),
        field<C>("rounds_max", [](auto& c) -> auto& { return c.rounds_max; }, "most rounds of one job",
                 {.min = 1}),
        field<C>("clip_norm_max", [](auto& c) -> auto& { return c.clip_norm_max; },
                 "largest L2 bound of an update: how much of this site one update may carry", {.min = 0}),
        field<C>(
            "upload_rate_max", [](auto& c) -> auto& { return c.upload_rate_max; },
            "bytes per second that this site sends at most, such as 2 MiB; 0: as fast as it goes"),
        field<C>(
            "download_rate_max", [](auto& c) -> auto& { return c.download_rate_max; },
            "bytes per second that this site receives at most; 0: as fast as it goes"),
    };
}

Table<ClientConfig> make_table() {
    using C = ClientConfig;
    Table<C> table{
        field<C>("server.host", [](auto& c) -> auto& { return c.server.host; },
                 "name or address of the server", {.required = true}),
        field<C>("server.port", [](auto& c) -> auto& { return c.server.port; }, "its port", {.min = 1}),
        field<C>(
            "server.name", [](auto& c) -> auto& { return c.server.name; },
            "the name its certificate must carry; empty means the host"),
        field<C>(
            "tls.ca", [](auto& c) -> auto& { return c.tls.ca; },
            "the federation's certificate authority; relative paths start at this file's folder"),
        field<C>(
            "tls.certificate", [](auto& c) -> auto& { return c.tls.certificate; },
            "this client's certificate: the name in it is who we are"),
        field<C>(
            "tls.key", [](auto& c) -> auto& { return c.tls.key; },
            "its private key; never leaves this machine"),
        field<C>(
            "state_directory", [](auto& c) -> auto& { return c.state_directory; },
            "received model versions and finished updates, so that a restart repeats nothing"),
        field<C>("models", [](auto& c) -> auto& { return c.models; },
                 "base models by the name that jobs use: a Hugging Face folder, or ORG/NAME once pulled",
                 {.required = true}),
        field<C>("data.path", [](auto& c) -> auto& { return c.data.path; },
                 "this site's training examples, JSON lines; they never leave this machine",
                 {.required = true}),
        field<C>(
            "data.eval_path", [](auto& c) -> auto& { return c.data.eval_path; },
            "held-out examples, JSON lines; empty: eval_fraction of data.path is held out"),
        field<C>("data.eval_fraction", [](auto& c) -> auto& { return c.data.eval_fraction; },
                 "share of data.path that is never trained on", {.min = 0, .max = 0.9}),
        field<C>(
            "device", [](auto& c) -> auto& { return c.device; },
            "auto trains on the GPU where there is one that can, else on the CPU; cuda insists on it"),
        field<C>(
            "gpus", [](auto& c) -> auto& { return c.gpus; },
            "which GPUs, counted from 0; of several each holds the model and takes a part of every batch, "
            "and all must be there"),
        field<C>("threads", [](auto& c) -> auto& { return c.threads; },
                 "CPU threads for training; 0: one per core", {.max = 4096}),
        field<C>("version_bytes_max", [](auto& c) -> auto& { return c.version_bytes_max; },
                 "larger model versions are declined before a byte is fetched", {.min = 1}),
        field<C>("versions_kept", [](auto& c) -> auto& { return c.versions_kept; },
                 "model versions kept on disk; older ones are removed", {.min = 1, .max = 1000}),
        field<C>(
            "memory_max", [](auto& c) -> auto& { return c.memory_max; },
            "jobs that would take more memory are declined; 0: what this machine and its control group "
            "have"),
    };
    table.push_back(field<C>(
        "admin.address", [](auto& c) -> auto& { return c.admin.address; },
        "where /metrics, /healthz and /readyz are served, in plain HTTP, such as 127.0.0.1; empty: nowhere"));
    table.push_back(field<C>(
        "admin.port", [](auto& c) -> auto& { return c.admin.port; }, "0 picks a free port and logs it"));
    config::append(table, config::prefixed<C>(
                              "log", service::log_table(), [](auto& c) -> auto& { return c.log; }));
    config::append(table, config::prefixed<C>(
                              "policy", policy_table(), [](auto& c) -> auto& { return c.policy; }));
    return table;
}

Error refused(const std::string& source, const std::string& key, const std::string& what) {
    return make_error(Errc::InvalidConfig, source + ": " + key + ": " + what);
}

Result<void> check_together(const ClientConfig& config, const std::string& source) {
    if (config.server.host.empty()) return refused(source, "server.host", "must not be empty");
    if (config.models.empty()) {
        return refused(source, "models",
                       "lists no base model, so this client could train nothing; add 'name: folder'");
    }
    if (config.models.size() > protocol::kBaseModelsMax) {
        return refused(source, "models",
                       "lists " + std::to_string(config.models.size()) + " models, at most " +
                           std::to_string(protocol::kBaseModelsMax) + " can be announced");
    }
    for (const auto& [name, folder] : config.models) {
        if (name.empty() || folder.empty()) return refused(source, "models", "a name or folder is empty");
    }
    if (config.data.path.empty()) return refused(source, "data.path", "must not be empty");
    const std::set<std::uint32_t> gpus(config.gpus.begin(), config.gpus.end());
    if (gpus.empty()) {
        return refused(source, "gpus", "names none; [0] is the first one, and 'device: cpu' uses none");
    }
    if (gpus.size() < config.gpus.size()) return refused(source, "gpus", "names one twice");
    for (const std::string& method : config.policy.methods) {
        if (method != "lora" && method != "full") {
            return refused(source, "policy.methods", "'" + method + "' is not one of lora, full");
        }
    }
    // A server drops whoever sends or takes less than 4 KiB a second.
    for (const auto& [key, rate] : {std::pair("policy.upload_rate_max", config.policy.upload_rate_max),
                                    std::pair("policy.download_rate_max", config.policy.download_rate_max)}) {
        if (rate.bytes != 0 && rate.bytes < kRateMin) {
            return refused(source, key,
                           std::to_string(rate.bytes) +
                               " bytes per second are too few to stay connected; use at "
                               "least 16 KiB, or 0 for no limit");
        }
    }
    if (config.policy.methods.empty()) {
        return refused(source, "policy.methods",
                       "is empty: every job would be refused; list lora, full or both");
    }
    return {};
}

void make_absolute(ClientConfig& config, const Path& folder) {
    const auto from_folder = [&](Path& path) {
        if (!path.empty() && path.is_relative()) path = (folder / path).lexically_normal();
    };
    for (Path* path : {&config.tls.ca, &config.tls.certificate, &config.tls.key, &config.state_directory,
                       &config.data.path, &config.data.eval_path}) {
        from_folder(*path);
    }
    // An id of the hub's cache stays one, unless a folder of that name is there.
    for (auto& [name, path] : config.models) {
        std::error_code ignored;
        if (hub::is_model_id(path.string()) && !std::filesystem::exists(folder / path, ignored)) continue;
        from_folder(path);
    }
}

}  // namespace

const Table<ClientConfig>& client_table() {
    static const Table<ClientConfig> table = make_table();
    return table;
}

Result<ClientConfig> parse_client_config(const std::string& yaml, const std::string& source,
                                         const Path& folder) {
    FEDLLM_TRY(ClientConfig config, config::parse_yaml(yaml, source, client_table()));
    FEDLLM_TRY_VOID(check_together(config, source));
    make_absolute(config, folder);
    return config;
}

Result<ClientConfig> load_client_config(const Path& path) {
    FEDLLM_TRY(const std::string text, read_file(path, std::size_t{1} << 20));
    return parse_client_config(text, path.string(), path.parent_path());
}

std::string print_client_config(const ClientConfig& config) {
    return "# fedllm-client: start with 'fedllm-client --config client.yaml'.\n" +
           config::print_yaml(config, client_table(), config::Comments::Yes);
}

ClientConfig example_client_config() {
    ClientConfig config;
    config.server.host = "federation.example.org";
    config.models["demo-base"] = "models/demo-base";
    config.data.path = "data/train.jsonl";
    return config;
}

}  // namespace fedllm::client::agent
