#include "server/round/schedule.hpp"

#include <algorithm>

namespace fedllm::server::round {

bool gathers(const JobState& state) {
    if (is_over(state) || state.paused || state.rules.asynchronous) return false;
    if (state.connected.size() + state.busy.size() < state.rules.clients_minimum) return false;
    switch (state.phase) {
        case Phase::Waiting: return state.round.get() < state.rules.rounds;
        case Phase::Aggregating: return state.round.get() + 1 < state.rules.rounds;
        case Phase::Training: {
            const std::size_t sure = state.parts.count(PartState::Accepted) + state.parts.counted_on();
            const std::size_t needed = state.rules.clients_minimum;
            // Where too few are left who did not decline, the others' clients would wait for nothing.
            return sure < needed && state.unasked.size() + state.unasked_busy.size() >= needed - sure;
        }
        default: return false;
    }
}

void Schedule::add(const JobId& job, std::uint32_t priority, const std::string& base_model) {
    jobs_[job] = {.priority = priority, .base_model = base_model, .told = {}};
    order_.push_back(job);
    sort();
    look_again_at_all();
}

void Schedule::remove(const JobId& job) {
    jobs_.erase(job);
    std::erase(order_, job);
    for (auto& [name, client] : clients_) {
        if (client.holder == job) client.holder.reset();
    }
    look_again_at_all();
}

void Schedule::update(const JobId& job, bool gathering, Timestamp last_opened) {
    const auto entry = jobs_.find(job);
    if (entry == jobs_.end()) return;
    Job& known = entry->second;
    if (known.gathering == gathering && known.last_opened == last_opened) return;
    known.gathering = gathering;
    known.last_opened = last_opened;
    sort();
    look_again_at_all();
}

// Equal ones keep their order of submission.
void Schedule::sort() {
    std::stable_sort(order_.begin(), order_.end(), [&](const JobId& left, const JobId& right) {
        const Job &one = jobs_.at(left), &other = jobs_.at(right);
        if (one.priority != other.priority) return one.priority > other.priority;
        return one.last_opened < other.last_opened;
    });
}

void Schedule::look_again_at_all() {
    for (const auto& [name, client] : clients_) changed_.insert(name);
}

void Schedule::join(const ClientId& client, const std::vector<std::string>& base_models) {
    leave(client);
    clients_[client].base_models = {base_models.begin(), base_models.end()};
    changed_.insert(client);
}

void Schedule::leave(const ClientId& client) {
    clients_.erase(client);
    changed_.erase(client);
    for (auto& [id, job] : jobs_) job.told.erase(client);
}

void Schedule::take(const JobId& job, const ClientId& client) {
    const auto entry = clients_.find(client);
    if (entry == clients_.end() || entry->second.holder) return;
    entry->second.holder = job;
    changed_.insert(client);
}

void Schedule::release(const JobId& job, const ClientId& client) {
    const auto entry = clients_.find(client);
    if (entry == clients_.end() || entry->second.holder != job) return;
    entry->second.holder.reset();
    changed_.insert(client);
}

const JobId* Schedule::holder(const ClientId& client) const {
    const auto entry = clients_.find(client);
    return entry != clients_.end() && entry->second.holder ? &*entry->second.holder : nullptr;
}

bool Schedule::can_train(const JobId& job, const ClientId& client) const {
    const auto entry = clients_.find(client);
    const auto known = jobs_.find(job);
    return entry != clients_.end() && known != jobs_.end() &&
           entry->second.base_models.contains(known->second.base_model);
}

bool Schedule::sees(const JobId& job, const ClientId& client, bool once_free) const {
    if (!can_train(job, client)) return false;
    if (const JobId* const held_by = holder(client)) {
        if (*held_by != job) return false;
        if (!once_free) return true;
    }
    for (const JobId& before : order_) {
        if (before == job) return true;
        if (jobs_.at(before).gathering && can_train(before, client)) return false;
    }
    return false;
}

void Schedule::told(const Tidings& tidings) {
    const auto job = jobs_.find(tidings.job);
    if (job != jobs_.end()) job->second.told[tidings.client] = tidings.free;
}

std::optional<Tidings> Schedule::next() {
    while (!changed_.empty()) {
        const ClientId client = *changed_.begin();
        for (const JobId& id : order_) {
            if (!can_train(id, client)) continue;
            const bool free = sees(id, client);
            auto& known = jobs_.at(id).told;
            const auto before = known.find(client);
            if (before != known.end() && before->second == free) continue;
            known[client] = free;
            return Tidings{id, client, free};
        }
        changed_.erase(client);
    }
    return std::nullopt;
}

}  // namespace fedllm::server::round
