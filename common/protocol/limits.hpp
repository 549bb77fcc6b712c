// Everything has a limit. These are the protocol's, with the defaults that programs start with; configuration
// may only lower what a peer must respect. A size is compared with its limit before anything is allocated for
// it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/clock.hpp"

namespace fedllm::protocol {

using namespace std::chrono_literals;

// Bytes of one frame, by kind: the table the decoder takes.
struct FrameLimits {
    std::size_t control_bytes_max = std::size_t{1} << 20;  // one Protobuf message; 100x that once parsed
    std::size_t chunk_bytes_max = std::size_t{1} << 20;    // tensor bytes of one chunk frame

    bool operator==(const FrameLimits&) const = default;
};

// Before Welcome the peer may only say Hello: little, and no chunks.
inline constexpr FrameLimits kGreetingLimits{.control_bytes_max = std::size_t{64} << 10,
                                             .chunk_bytes_max = 0};

struct Limits {
    FrameLimits frame;
    std::size_t chunk_bytes = std::size_t{256} << 10;  // what our senders put into one chunk

    Duration handshake_deadline = 10s;  // TCP accepted to TLS done; slowloris
    Duration greeting_deadline = 10s;   // TLS done to Hello (server), to Welcome (client)
    Duration idle_deadline = 90s;       // not one byte from the peer: it is gone
    Duration ping_every = 30s;          // silence of our own that we break
    std::size_t rate_bytes_min = std::size_t{4}
                                 << 10;  // per second, over rate_window, inside a frame, both ways:
    Duration rate_window = 30s;          // who sends or takes less is cut off

    std::size_t senders_waiting_max = 64;  // on one channel, for their turn to write

    bool operator==(const Limits&) const = default;
};

// Inside messages; see messages.hpp.
inline constexpr int kMessageNestingMax = 16;
inline constexpr std::size_t kClientElementsMax =
    4096;  // fields and sub-messages counted over the whole message
inline constexpr std::size_t kServerElementsMax = 1 << 18;  // a full frame of reports
inline constexpr std::size_t kNameBytesMax = 128;           // ids, names, states
inline constexpr std::size_t kTextBytesMax = 4096;          // reasons and details for people
inline constexpr std::size_t kCauseBytesMax = 1024;         // of an operator: it goes into every report
inline constexpr std::size_t kJobBytesMax = std::size_t{64} << 10;  // canonical YAML
inline constexpr std::size_t kBaseModelsMax = 64;
inline constexpr std::size_t kCodecsMax = 64;
inline constexpr std::size_t kVersionStepsMax = 32;  // of one Task

}  // namespace fedllm::protocol
