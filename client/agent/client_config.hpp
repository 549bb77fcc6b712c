// The client's own file: where its server, data and limits are. Everything about training is in the job.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "client/agent/policy.hpp"
#include "client/train/device.hpp"
#include "common/config/yaml.hpp"
#include "common/service/log_config.hpp"

namespace fedllm::client::agent {

struct ServerConfig {
    std::string host;
    std::uint16_t port = 7443;
    std::string name;  // expected in the server's certificate; empty: the host
    bool operator==(const ServerConfig&) const = default;
};

struct TlsConfig {
    Path ca = "ca.crt";
    Path certificate = "client.crt";
    Path key = "client.key";
    bool operator==(const TlsConfig&) const = default;
};

struct DataConfig {
    Path path;
    Path eval_path;  // empty: eval_fraction of `path` is held out
    double eval_fraction = 0.1;
    bool operator==(const DataConfig&) const = default;
};

// The page with /metrics, for the site's own operator.
struct AdminConfig {
    std::string address;  // empty: no page
    std::uint16_t port = 7481;
    bool operator==(const AdminConfig&) const = default;
};

struct ClientConfig {
    ServerConfig server;
    TlsConfig tls;
    Path state_directory = "state";
    std::map<std::string, Path> models;  // base model name, as jobs call it -> Hugging Face folder
    DataConfig data;
    train::Device device = train::Device::Auto;
    std::vector<std::uint32_t> gpus{0};  // as CUDA counts them; several share every batch
    std::uint32_t threads = 0;           // 0: one per core
    config::ByteCount version_bytes_max{std::uint64_t{64} << 30};
    std::uint32_t versions_kept = 3;
    config::ByteCount memory_max{0};  // 0: what the machine has
    AdminConfig admin;
    service::LogConfig log;
    Policy policy;
    bool operator==(const ClientConfig&) const = default;

    const std::string& server_name() const { return server.name.empty() ? server.host : server.name; }
};

const config::Table<ClientConfig>& client_table();

// Relative paths are meant from the folder of the file. Errors are InvalidConfig and name file and key.
Result<ClientConfig> load_client_config(const Path& path);
Result<ClientConfig> parse_client_config(const std::string& yaml, const std::string& source,
                                         const Path& folder);

// A commented file that loads back to `config`: what `fedllm invite` writes and configs/client.yaml holds.
std::string print_client_config(const ClientConfig& config);

// The example in configs/client.yaml.
ClientConfig example_client_config();

}  // namespace fedllm::client::agent
