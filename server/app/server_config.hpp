// server.yaml: where the server listens, who it is, and how much it may use. What is trained is in the job.
#pragma once

#include <cstdint>
#include <string>

#include "common/config/yaml.hpp"
#include "common/service/log_config.hpp"

namespace fedllm::server::app {

struct ListenConfig {
    std::string address = "0.0.0.0";
    std::uint16_t port = 7443;
    bool operator==(const ListenConfig&) const = default;
};

struct TlsConfig {
    Path ca = "ca.crt";
    Path certificate = "server.crt";
    Path key = "server.key";
    Path crl;  // empty: nobody is revoked
    Duration reload_every = std::chrono::seconds(5);
    bool operator==(const TlsConfig&) const = default;
};

struct LimitsConfig {
    std::uint32_t connections_max = 20'000;
    std::uint32_t unauthenticated_max = 256;
    std::uint32_t unauthenticated_per_address = 16;
    std::uint32_t connections_per_client = 2;
    std::uint32_t connections_per_operator = 16;
    std::uint32_t failures_per_minute = 10;
    Duration ban_time = std::chrono::seconds(60);
    Duration handshake_timeout = std::chrono::seconds(10);
    Duration greeting_timeout = std::chrono::seconds(10);
    Duration idle_timeout = std::chrono::seconds(90);
    config::ByteCount rate_min{std::uint64_t{4} << 10};
    Duration rate_window = std::chrono::seconds(30);
    config::ByteCount message_bytes_max{std::uint64_t{1} << 20};
    config::ByteCount upload_bytes_max{std::uint64_t{64} << 30};
    config::ByteCount upload_memory{std::uint64_t{256} << 20};
    config::ByteCount sum_memory{0};  // 0: what the machine has
    bool operator==(const LimitsConfig&) const = default;
};

struct RetentionConfig {
    std::uint32_t versions = 10;
    std::uint32_t updates = 0;
    bool operator==(const RetentionConfig&) const = default;
};

struct ServerConfig {
    ListenConfig listen;
    TlsConfig tls;
    ListenConfig admin{.address = "127.0.0.1", .port = 7480};
    Path state_directory = "state";
    std::uint32_t threads = 0;
    LimitsConfig limits;
    RetentionConfig retention;
    service::LogConfig log;
    bool operator==(const ServerConfig&) const = default;
};

const config::Table<ServerConfig>& server_table();

// Loads the file; relative paths in it are taken from the file's own folder.
Result<ServerConfig> load_server_config(const Path& file);

// The file that `fedllm init` writes: every key with its meaning above it.
std::string print_server_config(const ServerConfig& config, config::Comments comments);

}  // namespace fedllm::server::app
