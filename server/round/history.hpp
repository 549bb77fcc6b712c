// What a job's last rounds say about its clients: how many drop out, how long each takes, how long it stays
// away. Everything but the absences can be read again from the ledger, so a restart remembers it.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"

namespace fedllm::server::round {

constexpr std::uint32_t kRememberedRounds = 8;

// A value.
class History {
public:
    void accepted(RoundId round, const ClientId& client, Duration took);  // from being asked to acceptance
    void returned(const ClientId& client, Duration away);
    // The round is over. A drop-out was asked and gave nothing; who was merely too late is none.
    void closed(RoundId round, std::size_t asked, std::size_t dropped_out);

    // The share of those asked who drop out: the remembered rounds, with 1 of 20 before anything was seen.
    double drop_out_rate() const;
    // How many to ask so that about `goal` answer: goal / (1 - rate), at most half as many again
    // (Bonawitz et al. 2019, arXiv 1902.01046, ask 130 %).
    std::size_t to_ask(std::size_t goal) const;

    // The time by which the client has its update in, when all is as usual: the median of its times and three
    // robust standard deviations (1.4826 median absolute deviations), at least a quarter of the median. None
    // before it was seen three times.
    std::optional<Duration> expected_time(const ClientId& client) const;
    // The same of its absences, from the first on: it is back by then.
    std::optional<Duration> expected_absence(const ClientId& client) const;

    bool operator==(const History&) const = default;

private:
    struct Time {
        RoundId round;
        Duration took;
        bool operator==(const Time&) const = default;
    };
    struct Turnout {
        std::size_t asked = 0;
        std::size_t dropped_out = 0;
        bool operator==(const Turnout&) const = default;
    };

    std::map<ClientId, std::vector<Time>> times_;
    std::map<ClientId, std::vector<Duration>> absences_;
    std::map<RoundId, Turnout> turnouts_;
};

// Median and spread of what was seen, as described at History::expected_time. `seen` is not empty.
Duration upper_bound_of(std::vector<Duration> seen);

}  // namespace fedllm::server::round
