// Who was asked for which update, and how it went: the open round's bookkeeping, with its tallies at hand.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <map>
#include <optional>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"

namespace fedllm::server::round {

struct PartKey {
    RoundId round;  // of the version that the client starts from
    ClientId client;
    auto operator<=>(const PartKey&) const = default;
};

enum class PartState { Asked, Accepted, Refused, Declined, Dropped, Evaluated };
constexpr std::size_t kPartStates = 6;

// Times are the job's working time (see JobState).
struct Part {
    PartState state = PartState::Asked;
    Duration asked{};              // when the task went out first
    Duration alive{};              // last sign of life of an asked client
    std::optional<Duration> left;  // since when an asked client is away
    bool missing = false;          // asked, and not counted on any more: away for too long, or silent
    Duration settled{};            // when its answer came
    bool operator==(const Part&) const = default;
};

// A value. A client is asked for one update at a time.
class Parts {
public:
    using Map = std::map<PartKey, Part>;

    void put(const PartKey& key, const Part& part);  // adds or replaces
    void erase(const PartKey& key);

    const Part* find(const PartKey& key) const;
    std::optional<PartKey> task_of(const ClientId& client) const;  // what it is asked for now

    std::size_t count(PartState state) const { return counts_[static_cast<std::size_t>(state)]; }
    // When the `number`-th of the answers of this kind came, in order of time; none before.
    std::optional<Duration> settled(PartState state, std::size_t number) const;
    const std::map<ClientId, RoundId>& asked() const { return asked_; }  // by version, as in PartKey
    std::size_t missing() const { return missing_; }
    std::size_t counted_on() const { return count(PartState::Asked) - missing_; }

    Map::const_iterator begin() const { return parts_.begin(); }
    Map::const_iterator end() const { return parts_.end(); }
    std::size_t size() const { return parts_.size(); }
    bool empty() const { return parts_.empty(); }
    bool operator==(const Parts&) const = default;

private:
    void tally(const PartKey& key, const Part& part, bool added);

    Map parts_;
    std::map<ClientId, RoundId> asked_;
    std::array<std::size_t, kPartStates> counts_{};
    std::array<std::vector<Duration>, kPartStates> settled_;  // sorted; of those asked nothing
    std::size_t missing_ = 0;
};

}  // namespace fedllm::server::round
