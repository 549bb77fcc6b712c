// The yardstick: bytes over asio::ssl::stream on loopback, with our certificates and nothing else of ours. No
// frames, no deadlines, no digests, no disk.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/net/tls.hpp"
#include "tools/bench/stopwatch.hpp"

namespace fedllm::tools::bench {

inline constexpr std::size_t kPieceBytes = std::size_t{256} << 10;  // of one read or write: a chunk of ours

// What each connection carries: first down (server to client), then up; all connections at once.
struct Traffic {
    std::size_t connections = 1;
    std::uint64_t bytes_down = 0;
    std::uint64_t bytes_up = 0;
    bool echo = false;  // `bytes_up` go up, and come back as they are
};

// One thread for all server ends and one for all client ends. Handshakes are not in the time.
Result<Cost> time_bare_tls(const net::TlsContext& server, const net::TlsContext& client,
                           const Traffic& traffic);

}  // namespace fedllm::tools::bench
