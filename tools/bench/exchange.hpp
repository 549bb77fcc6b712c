// How fast a federation moves its bytes: a real server in a process of its own, real client connections,
// plain f32 both ways, and no training. The shape in which others publish their figures.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::tools::bench {

struct ExchangeOptions {
    std::uint64_t bytes = 0;  // of the model, and of each update
    std::uint32_t clients = 6;
    std::uint32_t rounds = 3;
    Path folder = ".";          // the server's state lies below it, and is removed afterwards
    std::uint32_t threads = 0;  // of the server's pool; 0: one per core
};

struct ExchangeReport {
    std::vector<double> round_seconds;  // from a round's first Task to the next one's
    double bare_seconds = 0;  // what one round's bytes take over a bare TLS stream, the faster of two turns
    // Processor time, which other programs of a busy machine do not change much.
    double bare_core_seconds = 0;       // of both sides, for those bytes
    double server_core_seconds = 0;     // a round
    double client_core_seconds = 0;     // a round, all clients
    std::uint64_t bytes_per_round = 0;  // over the network, both ways, all clients
    std::uint64_t server_resident_peak = 0;
    std::uint64_t server_anonymous_peak = 0;
};

using Say = std::function<void(const std::string&)>;  // what is being done now, for people

// To be called while the process has one thread: it forks. InvalidArgument where `folder` has no room.
Result<ExchangeReport> run_exchange(const ExchangeOptions& options, const Say& say);

}  // namespace fedllm::tools::bench
