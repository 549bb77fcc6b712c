// Thousands of faulty worlds from seeds: clients come and go, refuse, send late and twice, the server dies at
// any moment. The invariants are checked as effects are carried out (support.hpp) and after each event here.
#include "common/base/philox.hpp"
#include "server/round/timing.hpp"
#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

constexpr std::uint64_t kWorlds = 2'000;

// What must survive a restart: everything but the clocks and who is connected.
struct Essence {
    Phase phase;
    RoundId round;
    std::string digest;
    std::map<PartKey, PartState> parts;
    bool paused;
    bool operator==(const Essence&) const = default;
};
Essence essence(const JobState& state) {
    Essence found{state.phase, state.round, state.model_digest, {}, state.paused.has_value()};
    for (const auto& [key, part] : state.parts) {
        // A declined client that came back is unasked again in memory; either way it may be asked anew. Those
        // dropped when the round closed are over.
        if (part.state != PartState::Declined && part.state != PartState::Dropped)
            found.parts[key] = part.state;
    }
    return found;
}

std::string describe(const Essence& essence) {
    std::string text = std::string(name(essence.phase)) + " of round " + std::to_string(essence.round.get());
    for (const auto& [key, state] : essence.parts) {
        text += " " + std::to_string(key.round.get()) + "/" + key.client.get() + ":" +
                std::to_string(static_cast<int>(state));
    }
    return text;
}

class World {
public:
    explicit World(std::uint64_t seed) : rng_(seed, "world"), job_(draw_rules()) {
        const std::uint64_t clients = job_.state().rules.clients_per_round + rng_.below(4);
        for (std::uint64_t i = 0; i < clients; ++i) names_.push_back("site-" + std::to_string(i));
        job_.send(Tick{});
    }

    void run_faulty(int events) {
        for (int i = 0; i < events; ++i) {
            one_event();
            check();
            if (::testing::Test::HasFailure()) return;
        }
    }

    // From here on all clients are there and do what they are asked: the job must come to its end.
    bool run_to_the_end() {
        job_.send(ResumeRequested{});
        for (int i = 0; i < 2'000; ++i) {
            if (job_.phase() == Phase::Finished) return true;
            for (const std::string& name : names_) {
                if (!job_.state().connected.contains(id(name))) job_.join(name);
                answer(name);
            }
            if (job_.phase() == Phase::Aggregating) job_.commit();
            job_.advance(Duration(1'000));
            job_.send(Tick{});
            check();
            if (stuck_on_refusals()) return true;
        }
        ADD_FAILURE() << "no end: waiting for " << job_.waiting();
        return false;
    }

    const Job& job() const { return job_; }

private:
    // About one job in three is asynchronous.
    Rules draw_rules() {
        const auto n = static_cast<std::uint32_t>(1 + rng_.below(5));
        const auto k = static_cast<std::uint32_t>(1 + rng_.below(n));
        Rules drawn = rules(static_cast<std::uint32_t>(1 + rng_.below(4)), n, k);
        drawn.seed = rng_.next_u64();
        drawn.asynchronous = rng_.below(3) == 0;
        if (drawn.asynchronous) {
            drawn.buffer = static_cast<std::uint32_t>(k + rng_.below(n - k + 1));
            drawn.staleness_max = static_cast<std::uint32_t>(rng_.below(3));
        }
        return drawn;
    }
    const std::string& some_client() { return names_[rng_.below(names_.size())]; }
    // Mostly of the task that the client has.
    RoundId some_round(const std::string& name) {
        const auto task = job_.state().parts.task_of(id(name));
        const std::uint32_t round = task ? task->round.get() : job_.state().round.get();
        return RoundId(rng_.below(10) == 0 && round > 0 ? round - 1 : round);
    }

    void answer(const std::string& name) {
        if (job_.phase() == Phase::Training) job_.upload(name);
        if (job_.phase() == Phase::FinalEvaluation) {
            job_.send(EvaluationArrived{id(name), job_.state().round, 1.0, 1});
        }
    }

    void one_event() {
        const std::string name = some_client();
        const bool connected = job_.state().connected.contains(id(name));
        switch (rng_.below(14)) {
            case 0:
            case 1:
            case 2: job_.join(name); break;
            case 3: job_.leave(name); break;
            case 4:
            case 5:
                if (connected) job_.upload(name, some_round(name));
                break;
            case 6:
                if (connected) job_.send(EvaluationArrived{id(name), some_round(name), 1.0, 1});
                break;
            case 7:
                if (rng_.below(3) == 0)
                    job_.send(UploadRefused{id(name), some_round(name), "not_finite", ""});
                break;
            case 8:
                if (rng_.below(3) == 0) job_.send(ClientDeclined{id(name), some_round(name), "policy", ""});
                break;
            case 9:
                if (job_.phase() == Phase::Aggregating) job_.commit();
                break;
            case 10:
                job_.advance(Duration(static_cast<std::int64_t>(rng_.below(rng_.below(2) ? 1'000 : 80'000))));
                job_.send(Tick{});
                break;
            case 11:
                if (rng_.below(4) == 0) {
                    expect_recovery_equals_what_was();
                    job_.restart();
                }
                break;
            case 12:
                if (rng_.below(3) == 0) pause_or_resume();
                break;
            case 13: one_sign_or_task_elsewhere(name, connected); break;
        }
    }

    // A sign of life, or another job takes the client and gives it back.
    void one_sign_or_task_elsewhere(const std::string& name, bool connected) {
        if (job_.state().parts.task_of(id(name)) || rng_.below(2) == 0) {
            job_.send(SignOfLife{id(name)});
        } else if (job_.state().busy.contains(id(name))) {
            job_.send(ClientFree{id(name)});
        } else if (connected) {
            job_.send(ClientBusy{id(name)});
        }
    }

    void pause_or_resume() {
        if (job_.state().paused) {
            job_.send(ResumeRequested{});
        } else {
            job_.send(PauseRequested{"an operator"});
        }
    }

    void expect_recovery_equals_what_was() {
        Essence before = essence(job_.state());
        JobState recovered = job_.recovered();
        // Aggregating and the wait before a final evaluation are conclusions, which the first Tick draws
        // again.
        if (before.phase == Phase::Aggregating) {
            recovered = step(std::move(recovered), Tick{}, job_.now()).state;
        }
        if (before.phase == Phase::Finished) before.parts.clear();  // history, which the ledger keeps
        EXPECT_EQ(essence(recovered), before)
            << describe(essence(recovered)) << " instead of " << describe(before);
    }

    void check() {
        const JobState& state = job_.state();
        EXPECT_FALSE(job_.waiting().empty());
        EXPECT_EQ(state.round.get(), job_.commits());
        EXPECT_LE(state.round.get(), state.rules.rounds);
        std::size_t accepted = 0;
        for (const auto& [key, part] : state.parts) {
            accepted += part.state == PartState::Accepted;
            const auto row = job_.parts().find({key.round, key.client});
            EXPECT_NE(row, job_.parts().end()) << "asked and not recorded";
            const bool asking = state.phase == Phase::Training || state.phase == Phase::FinalEvaluation;
            EXPECT_FALSE(asking && part.left && state.connected.contains(key.client)) << "away and connected";
        }
        EXPECT_LE(accepted, goal(state.rules));
        EXPECT_EQ(accepted, state.parts.count(PartState::Accepted));
        check_who_is_at_work();
        check_what_is_kept();
        // No conclusion is left undrawn: a Tick at the same moment changes nothing.
        const Transition again = step(state, Tick{}, job_.now());
        EXPECT_EQ(again.state, state);
    }

    void check_who_is_at_work() {
        const JobState& state = job_.state();
        std::set<ClientId> at_work;
        std::size_t missing = 0;
        for (const auto& [key, part] : state.parts) {
            if (part.state != PartState::Asked) continue;
            EXPECT_TRUE(at_work.insert(key.client).second) << key.client.get() << " is asked for two updates";
            missing += part.missing;
            const std::uint32_t most = state.rules.asynchronous ? state.rules.staleness_max : 0;
            if (state.phase == Phase::Training) {
                EXPECT_LE(state.round.get() - key.round.get(), most);
            }
        }
        EXPECT_EQ(missing, state.parts.missing());
    }

    // What is kept from event to event is what looking at everybody gives.
    void check_what_is_kept() {
        const JobState& state = job_.state();
        JobState anew = state;
        keep_last_moments(anew);
        EXPECT_EQ(anew.last_moments, state.last_moments);
        std::vector<Duration> accepted;
        for (const auto& [key, part] : state.parts) {
            if (part.state == PartState::Accepted) accepted.push_back(part.settled);
        }
        std::ranges::sort(accepted);
        for (std::size_t i = 0; i < accepted.size(); ++i)
            EXPECT_EQ(state.parts.settled(PartState::Accepted, i + 1), accepted[i]);
        EXPECT_FALSE(state.parts.settled(PartState::Accepted, accepted.size() + 1));
        const auto unasked = [&](std::set<ClientId> clients) {
            std::erase_if(clients, [&](const ClientId& client) {
                return state.parts.find({state.round, client}) || state.parts.task_of(client);
            });
            return clients;
        };
        EXPECT_EQ(state.unasked, unasked(state.connected));
        EXPECT_EQ(state.unasked_busy, unasked(state.busy));
    }

    // Refused clients are never asked again in the round: with too few others it waits, as it should.
    bool stuck_on_refusals() const {
        const JobState& state = job_.state();
        if (state.phase != Phase::Training) return false;
        std::size_t useful = state.parts.count(PartState::Accepted);
        for (const std::string& name : names_) {
            const Part* const part = state.parts.find({state.round, id(name)});
            useful += part == nullptr || state.parts.task_of(id(name)).has_value();
        }
        return useful < state.rules.clients_minimum;
    }

    Rng rng_;
    Job job_;
    std::vector<std::string> names_;
};

TEST(Worlds, KeepTheInvariantsAndReachTheEnd) {
    std::size_t finished = 0;
    std::map<std::string, int> seen;
    for (std::uint64_t seed = 1; seed <= kWorlds; ++seed) {
        SCOPED_TRACE("world seed " + std::to_string(seed));
        World world(seed);
        world.run_faulty(150);
        if (!world.run_to_the_end() || HasFailure()) return;
        for (const auto& [what, times] : world.job().seen()) seen[what] += times;
        finished += world.job().phase() == Phase::Finished;
    }
    EXPECT_GT(finished, kWorlds / 2)
        << "too many worlds ended for want of clients: the test bites too little";
    for (const char* what :
         {"late", "lost", "stale", "asked after the opening", "an older version's update counted"}) {
        EXPECT_GT(seen[what], 100) << what;
    }
}

}  // namespace
}  // namespace fedllm::server::round
