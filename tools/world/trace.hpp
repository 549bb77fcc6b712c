// What happened in a world, in order: for people to read, and as a hash by which two runs are compared.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/net/timer.hpp"

namespace fedllm::tools::world {

// Everything that a world does to its inhabitants, counted: a run that never met a kind proves nothing about
// it.
enum class Trouble {
    Delay,       // bytes came late, in their order
    Loss,        // a segment was sent again by the system: a longer delay
    Refused,     // a connection could not be made
    Reset,       // both ends hear that the connection is gone
    HalfOpen,    // one end hears it, the other does not
    Silence,     // neither does
    LateBytes,   // bytes of an old connection arrived when a newer one spoke already: reordered
    Partition,   // for a while nothing gets through
    ServerKill,  // kill -9: the system closes the connections
    ClientKill,
    ServerPowerLoss,  // nobody is told
    ClientPowerLoss,
    ServerStop,   // SIGTERM
    DiskTorn,     // a write of which a part survived a crash
    DiskLost,     // an unsynced write that did not survive
    DiskError,    // EIO
    DiskFull,     // ENOSPC
    UploadWaits,  // for its share of the memory
    Paused,       // an operator paused a job that ran
    Resumed,
    Stopped,
    Stale,  // an update that was counted began with an older version than its round
};
inline constexpr std::size_t kTroubles = static_cast<std::size_t>(Trouble::Stale) + 1;
std::string_view name(Trouble trouble);

class Trace {
public:
    using Sink = std::function<void(std::string_view line)>;

    Trace(const net::VirtualTime& time, Sink sink) : time_(time), sink_(std::move(sink)) {}

    void say(std::string_view who, std::string_view what);
    void count(Trouble trouble, std::uint64_t times = 1) {
        counts_[static_cast<std::size_t>(trouble)] += times;
    }

    std::uint64_t hash() const { return hash_; }
    const std::array<std::uint64_t, kTroubles>& counts() const { return counts_; }

private:
    const net::VirtualTime& time_;
    Sink sink_;
    std::uint64_t hash_ = 0xcbf29ce484222325u;
    std::array<std::uint64_t, kTroubles> counts_{};
};

}  // namespace fedllm::tools::world
