// The conclusions, drawn after each event.
#include "server/round/machine.hpp"

#include <algorithm>
#include <utility>

#include "common/base/philox.hpp"
#include "server/round/step.hpp"

namespace fedllm::server::round {
namespace {

// `count` of the clients, drawn by a stream that the job's seed and the purpose fix; sorted.
std::vector<ClientId> draw(const std::set<ClientId>& clients, std::size_t count, std::uint64_t seed,
                           const std::string& purpose) {
    Rng rng(seed, purpose);
    std::vector<const ClientId*> all;
    for (const ClientId& client : clients) all.push_back(&client);
    std::vector<ClientId> drawn;
    for (std::size_t i = 0; i < std::min(count, all.size()); ++i) {
        std::swap(all[i], all[i + rng.below(all.size() - i)]);
        drawn.push_back(*all[i]);
    }
    std::sort(drawn.begin(), drawn.end());
    return drawn;
}

}  // namespace

void Step::advance(const std::optional<ClientId>& concerned) {
    if (state_.closing) close();
    if (state_.paused) return;
    if (state_.phase == Phase::Waiting) {
        if (state_.round.get() >= state_.rules.rounds) {
            open(Phase::FinalEvaluation, {state_.unasked.begin(), state_.unasked.end()});
        } else {
            open_when_enough();
        }
    }
    if (state_.worked >= state_.next_look) notice_the_missing();
    if (state_.phase == Phase::Training) {
        if (!asynchronous()) {
            replace_the_missing();
        } else if (state_.parts.count(PartState::Accepted) < goal(state_.rules)) {
            keep_all_busy();
        }
        if (may_close(state_)) close();
    }
    if (state_.phase == Phase::FinalEvaluation) {
        ask_to_evaluate(concerned);
        if (may_finish(state_)) finish_evaluation();
    }
}

Transition Step::finish() && {
    if (const auto when = next_wake(state_)) effects_.emplace_back(WakeAt{moment_of(state_, *when)});
    return {std::move(state_), std::move(effects_)};
}

void Step::notice_the_missing() {
    state_.next_look = Duration::max();
    for (const PartKey& key : all_asked()) {
        Part part = *state_.parts.find(key);
        if (part.missing) continue;
        if (state_.worked < missing_from(state_, key.client, part)) {
            watch(key, part);
        } else {
            part.missing = true;
            put(key, part);
        }
    }
}

// An asynchronous round needs nobody to open: those asked for older versions may be all it takes.
void Step::open_when_enough() {
    if (asynchronous()) {
        drop_the_stale();
        return open(Phase::Training, {});
    }
    const std::size_t there = state_.connected.size();
    if (there < state_.rules.clients_minimum) {
        state_.enough_since.reset();
        return;
    }
    if (!state_.enough_since) state_.enough_since = state_.worked;
    const bool waited = state_.worked >= *state_.enough_since + patience(state_);
    if (there < state_.rules.clients_per_round && !waited) return;
    open(Phase::Training, draw(state_.connected, state_.history.to_ask(state_.rules.clients_per_round),
                               state_.rules.seed, purpose("select")));
}

void Step::open(Phase phase, const std::vector<ClientId>& clients) {
    enter(phase);
    state_.opened = state_.worked;
    state_.enough_since.reset();
    if (phase == Phase::Training) state_.recovered.reset();
    effects_.emplace_back(OpenRound{state_.round, kind(), clients, state_.model_digest});
    for (const ClientId& client : clients) {
        const PartKey key{state_.round, client};
        const Part part{.asked = state_.worked, .alive = state_.worked, .left = {}};
        put(key, part);
        ask(key);
    }
}

// Asked after the round was opened: the ledger does not know of it yet.
void Step::ask_late(const ClientId& client) {
    const PartKey key{state_.round, client};
    const Part part{.asked = state_.worked, .alive = state_.worked, .left = {}};
    put(key, part);
    effects_.emplace_back(RecordPart{client, state_.round, store::PartStatus::Asked, "", ""});
    ask(key);
}

// What happens to one client makes nobody else free: with a crowd there, looking at all each time is most of
// the work.
void Step::ask_to_evaluate(const std::optional<ClientId>& concerned) {
    if (!concerned) {
        for (const ClientId& client : std::set<ClientId>(state_.unasked)) ask_late(client);
    } else if (state_.unasked.contains(*concerned)) {
        ask_late(*concerned);
    }
}

void Step::keep_all_busy() {
    const std::size_t at_work = state_.parts.counted_on(), most = state_.rules.clients_per_round;
    if (at_work >= most) return;
    const std::string purpose_now = purpose("select") + "/" + std::to_string(state_.parts.size());
    for (const ClientId& client : draw(state_.unasked, most - at_work, state_.rules.seed, purpose_now)) {
        ask_late(client);
    }
}

void Step::replace_the_missing() {
    const std::size_t accepted = state_.parts.count(PartState::Accepted);
    const std::size_t possible = accepted + state_.parts.counted_on();
    const std::size_t wanted = state_.rules.clients_per_round;
    if (accepted >= state_.rules.clients_minimum || possible >= wanted) return;
    const std::string purpose_now = purpose("replace") + "/" + std::to_string(state_.parts.size());
    for (const ClientId& client : draw(state_.unasked, wanted - possible, state_.rules.seed, purpose_now)) {
        ask_late(client);
    }
}

void Step::close() {
    CloseRound close{state_.round, {}, {}};
    std::size_t gave_nothing = 0;
    for (const auto& [key, part] : state_.parts) {
        if (part.state == PartState::Accepted) close.accepted.push_back(key);
        gave_nothing += part.state == PartState::Refused || part.state == PartState::Declined || part.missing;
    }
    if (!asynchronous()) state_.history.closed(state_.round, state_.parts.size(), gave_nothing);
    if (!asynchronous() || is_last_round()) {
        for (const PartKey& key : all_asked()) {
            Part part = *state_.parts.find(key);
            close.dropped.push_back({key, std::string(part.missing ? kLost : kLate)});
            release(key, "round " + std::to_string(state_.round.get()) + " closed without this update");
            answered(key, part, PartState::Dropped);
        }
    }
    effects_.emplace_back(std::move(close));
    enter(Phase::Aggregating);
    state_.closing = false;
}

// Work that could not count any more ends here; who did it is free for the newest version.
void Step::drop_the_stale() {
    for (const PartKey& key : all_asked()) {
        if (state_.round.get() - key.round.get() <= state_.rules.staleness_max) continue;
        release(key, "the model has moved on too far from round " + std::to_string(key.round.get()));
        effects_.emplace_back(
            RecordPart{key.client, key.round, store::PartStatus::Dropped, std::string(kTooStale), ""});
        erase(key);
    }
}

void Step::finish_evaluation() {
    release_all("the job is finished");
    effects_.emplace_back(FinishJob{state_.round});
    enter(Phase::Finished);
}

void Step::release(const PartKey& key, const std::string& reason) {
    if (state_.paused || !state_.connected.contains(key.client)) return;
    effects_.emplace_back(Release{key.client, key.round, reason});
}

void Step::release_all(const std::string& reason) {
    for (const PartKey& key : all_asked()) release(key, reason);
}

Transition step(JobState state, const Event& event, Timestamp now) {
    Step step(std::move(state), now);
    std::visit([&step](const auto& happened) { step.on(happened); }, event);
    step.advance(client_of(event));
    return std::move(step).finish();
}

}  // namespace fedllm::server::round
