#include "server/round/history.hpp"

#include <algorithm>
#include <cmath>

namespace fedllm::server::round {
namespace {

constexpr double kDroppedBefore = 1.0, kAskedBefore = 20.0;  // the prior, Beta(1, 19)
constexpr double kAskedMost = 1.5;
constexpr std::size_t kTimesNeeded = 3;
constexpr std::size_t kAbsencesRemembered = 8;

// Of an even number the lower of the two in the middle: an observed value, and no rounding.
Duration median(std::vector<Duration>& values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

}  // namespace

Duration upper_bound_of(std::vector<Duration> seen) {
    const Duration middle = median(seen);
    for (Duration& value : seen) value = value > middle ? value - middle : middle - value;
    const double spread = 3 * 1.4826 * static_cast<double>(median(seen).count());
    return middle + std::max(Duration(static_cast<std::int64_t>(spread)), middle / 4);
}

void History::accepted(RoundId round, const ClientId& client, Duration took) {
    auto& times = times_[client];
    std::erase_if(times,
                  [&](const Time& time) { return time.round.get() + kRememberedRounds <= round.get(); });
    times.push_back({round, took});
}

void History::returned(const ClientId& client, Duration away) {
    auto& absences = absences_[client];
    absences.push_back(away);
    if (absences.size() > kAbsencesRemembered) absences.erase(absences.begin());
}

void History::closed(RoundId round, std::size_t asked, std::size_t dropped_out) {
    turnouts_[round] = {asked, dropped_out};
    while (turnouts_.begin()->first.get() + kRememberedRounds <= round.get())
        turnouts_.erase(turnouts_.begin());
}

double History::drop_out_rate() const {
    double asked = kAskedBefore, dropped_out = kDroppedBefore;
    for (const auto& [round, turnout] : turnouts_) {
        asked += static_cast<double>(turnout.asked);
        dropped_out += static_cast<double>(turnout.dropped_out);
    }
    return dropped_out / asked;
}

std::size_t History::to_ask(std::size_t goal) const {
    const double most = kAskedMost * static_cast<double>(goal);
    const double wanted = static_cast<double>(goal) / (1.0 - std::min(0.9, drop_out_rate()));
    return std::max(goal, static_cast<std::size_t>(std::floor(std::min(most, wanted + 0.5))));
}

std::optional<Duration> History::expected_time(const ClientId& client) const {
    const auto times = times_.find(client);
    if (times == times_.end() || times->second.size() < kTimesNeeded) return std::nullopt;
    std::vector<Duration> seen;
    for (const Time& time : times->second) seen.push_back(time.took);
    return upper_bound_of(std::move(seen));
}

std::optional<Duration> History::expected_absence(const ClientId& client) const {
    const auto absences = absences_.find(client);
    if (absences == absences_.end()) return std::nullopt;
    return upper_bound_of(absences->second);
}

}  // namespace fedllm::server::round
