// operator.yaml: how the operator's commands reach the server. Written by `fedllm init`.
#pragma once

#include <cstdint>
#include <string>

#include "common/config/yaml.hpp"
#include "common/net/tls.hpp"

namespace fedllm::tools::federation {

struct OperatorConfig {
    std::string host = "127.0.0.1";
    std::uint16_t port = 7443;
    std::string server_name;  // expected in the server's certificate; empty: the host
    Path ca = "ca.crt";
    Path certificate = "operator.crt";
    Path key = "operator.key";
    bool operator==(const OperatorConfig&) const = default;

    const std::string& expected_name() const { return server_name.empty() ? host : server_name; }
    net::TlsFiles tls() const { return {.ca = ca, .certificate = certificate, .key = key}; }
};

const config::Table<OperatorConfig>& operator_table();

// DIR/operator.yaml, its relative paths taken from DIR.
Result<OperatorConfig> load_operator_config(const Path& folder);

}  // namespace fedllm::tools::federation
