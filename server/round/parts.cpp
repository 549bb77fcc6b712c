#include "server/round/parts.hpp"

#include <algorithm>

namespace fedllm::server::round {

void Parts::tally(const PartKey& key, const Part& part, bool added) {
    const std::size_t one = added ? 1 : std::size_t(-1);  // wraps to a subtraction
    counts_[static_cast<std::size_t>(part.state)] += one;
    if (part.state != PartState::Asked) {
        auto& times = settled_[static_cast<std::size_t>(part.state)];
        if (added) {  // mostly behind all others
            times.insert(std::ranges::upper_bound(times, part.settled), part.settled);
        } else {
            times.erase(std::ranges::lower_bound(times, part.settled));
        }
        return;
    }
    if (part.missing) missing_ += one;
    if (added) {
        asked_[key.client] = key.round;
    } else {
        asked_.erase(key.client);
    }
}

void Parts::put(const PartKey& key, const Part& part) {
    const auto [entry, is_new] = parts_.try_emplace(key, part);
    if (!is_new) {
        tally(key, entry->second, false);
        entry->second = part;
    }
    tally(key, part, true);
}

void Parts::erase(const PartKey& key) {
    const auto entry = parts_.find(key);
    if (entry == parts_.end()) return;
    tally(key, entry->second, false);
    parts_.erase(entry);
}

const Part* Parts::find(const PartKey& key) const {
    const auto entry = parts_.find(key);
    return entry != parts_.end() ? &entry->second : nullptr;
}

std::optional<Duration> Parts::settled(PartState state, std::size_t number) const {
    const auto& times = settled_[static_cast<std::size_t>(state)];
    return number > 0 && number <= times.size() ? std::optional(times[number - 1]) : std::nullopt;
}

std::optional<PartKey> Parts::task_of(const ClientId& client) const {
    const auto entry = asked_.find(client);
    if (entry == asked_.end()) return std::nullopt;
    return PartKey{entry->second, client};
}

}  // namespace fedllm::server::round
