// A job under the machine, with its effects carried out on rows in memory, as the engine does on the ledger.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "server/round/machine.hpp"

namespace fedllm::server::round {

inline ClientId id(const std::string& name) { return ClientId(name); }
inline Timestamp at(std::int64_t ms) { return Timestamp(Duration(1'000'000 + ms)); }

inline Rules rules(std::uint32_t rounds, std::uint32_t n, std::uint32_t k) {
    return {JobId("j1"), "tiny", 7, rounds, n, k};
}

class Job {
public:
    explicit Job(const Rules& rules) : state_(start(rules, "d0")) {
        row_.model_digest = "d0";
        row_.id = rules.job;
    }

    // Applies the event, keeps its effects, carries out those on rows. Answers CloseRound only by commit().
    const std::vector<Effect>& send(const Event& event) {
        Transition next = step(std::move(state_), event, now_);
        state_ = std::move(next.state);
        effects_ = std::move(next.effects);
        for (const Effect& effect : effects_) {
            std::visit([this](const auto& one) { carry_out(one); }, effect);
        }
        return effects_;
    }
    const std::vector<Effect>& join(const std::string& name) {
        return send(ClientJoined{id(name), {"tiny"}});
    }
    const std::vector<Effect>& leave(const std::string& name) { return send(ClientLeft{id(name)}); }
    const std::vector<Effect>& tick_at(std::int64_t ms) {
        now_ = at(ms);
        return send(Tick{});
    }

    // An upload of this client for this round, through the same gate as in the engine. Whether it was
    // counted.
    bool upload(const std::string& name, RoundId round) {
        const auto counted =
            withholds(state_) ? make_error(Errc::OutOfOrder, "") : admits(state_, round, id(name));
        if (!counted) return false;
        store::PartRow& part = parts_[{round, id(name)}];
        EXPECT_EQ(part.status, store::PartStatus::Asked) << name << " counted twice or never asked";
        EXPECT_EQ(*counted, state_.round);
        EXPECT_LE(counted->get() - round.get(), state_.rules.asynchronous ? state_.rules.staleness_max : 0);
        part.status = store::PartStatus::Accepted;
        part.accepted = now_;
        part.elapsed = time_taken(state_, round, id(name), now_);
        part.counted = *counted;
        send(UploadAccepted{id(name), round});
        return true;
    }
    // Of the task that the client has, or would have.
    bool upload(const std::string& name) {
        const auto task = state_.parts.task_of(id(name));
        return upload(name, task ? task->round : state_.round);
    }
    // Committed and delivered, as where the disk is quick.
    void commit() {
        commit_alone();
        deliver_if_last();
    }
    void deliver_if_last() {
        if (row_.round.get() < state_.rules.rounds || is_over(state_)) return;
        const auto effects = std::move(effects_);
        deliver();
        effects_.insert(effects_.begin(), effects.begin(), effects.end());
    }
    void deliver() { send(VersionDelivered{row_.round}); }
    void commit_alone() {
        const RoundId round = state_.round;
        store::RoundRow& row = rounds_.at(round.get());
        row.status = store::RoundStatus::Committed;
        row.closed = now_;
        row_.round = RoundId(round.get() + 1);
        row_.model_digest = "d" + std::to_string(round.get() + 1);
        send(RoundCommitted{round, row_.model_digest});
    }

    // The server dies and comes back, knowing its rows alone.
    JobState recovered() const {
        std::vector<store::PartRow> parts;
        for (const auto& [key, part] : parts_) {
            if (key.first >= first_needed(state_.rules, row_.round)) parts.push_back(part);
        }
        return recover(state_.rules, row_, rounds_, parts, now_);
    }
    void restart() {
        state_ = recovered();
        send(Tick{});
        deliver_if_last();
    }

    template <class Kind>
    std::vector<Kind> all() const {
        std::vector<Kind> found;
        for (const Effect& effect : effects_) {
            if (const auto* one = std::get_if<Kind>(&effect)) found.push_back(*one);
        }
        return found;
    }
    std::vector<std::string> asked() const {
        std::vector<std::string> names;
        for (const AskClient& ask : all<AskClient>()) names.push_back(ask.client.get());
        return names;
    }
    std::string waiting() const { return waiting_for(state_, now_); }

    const JobState& state() const { return state_; }
    Phase phase() const { return state_.phase; }
    Timestamp now() const { return now_; }
    void advance(Duration step) { now_ += step; }
    const std::map<std::string, int>& seen() const { return seen_; }  // how often what happened
    std::size_t commits() const { return row_.round.get(); }
    const std::map<std::pair<RoundId, ClientId>, store::PartRow>& parts() const { return parts_; }

private:
    void carry_out(const OpenRound& open) {
        store::RoundRow row;
        row.round = open.round;
        row.model_digest = open.model_digest;
        row.opened = now_;
        EXPECT_EQ(rounds_.size(), open.round.get()) << "rounds open one after the other, each once";
        rounds_.push_back(row);
        for (const ClientId& client : open.clients) put(client, open.round, store::PartStatus::Asked);
    }
    void carry_out(const RecordPart& record) {
        put(record.client, record.round, record.status);
        if (record.status == store::PartStatus::Asked) ++seen_["asked after the opening"];
        if (record.reason == kTooStale) ++seen_[record.reason];
    }
    void carry_out(const RecordEvaluation& evaluation) {
        put(evaluation.client, evaluation.round, store::PartStatus::Evaluated);
    }
    void carry_out(const CloseRound& close) {
        for (const auto& [key, reason] : close.dropped) {
            store::PartRow& part = parts_.at({key.round, key.client});
            EXPECT_EQ(part.status, store::PartStatus::Asked);
            part.status = store::PartStatus::Dropped;
            part.reason = reason;
            ++seen_[reason];
        }
        std::vector<PartKey> counted;
        for (const auto& [key, part] : parts_) {
            if (part.status == store::PartStatus::Accepted && part.counted == close.round) {
                counted.push_back({key.first, key.second});
                if (key.first < close.round) ++seen_["an older version's update counted"];
            }
            const bool over = !state_.rules.asynchronous && key.first == close.round;
            EXPECT_FALSE(over && part.status == store::PartStatus::Asked);
        }
        EXPECT_TRUE(row_.status == store::JobStatus::Running ||
                    rounds_.at(close.round.get()).status == store::RoundStatus::Closing)
            << "a pause closes no round";
        EXPECT_EQ(close.accepted, counted) << "what is summed is what the ledger counts";
        EXPECT_GE(counted.size(), state_.rules.clients_minimum);
        EXPECT_LE(counted.size(), goal(state_.rules));
        rounds_.at(close.round.get()).status = store::RoundStatus::Closing;
    }
    void carry_out(const AskClient& ask) {
        EXPECT_EQ(row_.status, store::JobStatus::Running);
        EXPECT_EQ(parts_.at({ask.round, ask.client}).status, store::PartStatus::Asked)
            << "asked before it is known";
        EXPECT_TRUE(state_.connected.contains(ask.client));
    }
    void carry_out(const Release& release) { EXPECT_TRUE(state_.connected.contains(release.client)); }
    void carry_out(const FinishJob&) {
        row_.status = store::JobStatus::Finished;
        rounds_.back().status = store::RoundStatus::Committed;
    }
    void carry_out(const FailJob& fail) {
        row_.status = store::JobStatus::Failed;
        row_.detail = fail.cause;
    }
    void carry_out(const StopJob& stop) {
        row_.status = store::JobStatus::Stopped;
        row_.detail = stop.cause;
    }
    void carry_out(const PauseJob& pause) {
        row_.status = store::JobStatus::Paused;
        row_.detail = pause.cause;
    }
    void carry_out(const ResumeJob&) {
        row_.status = store::JobStatus::Running;
        row_.detail.clear();
    }
    void carry_out(const WakeAt& wake) { EXPECT_GT(wake.when, now_); }
    void put(const ClientId& client, RoundId round, store::PartStatus status) {
        store::PartRow& part = parts_[{round, client}];
        EXPECT_NE(part.status, store::PartStatus::Accepted) << "an accepted part is never changed";
        part.round = round;
        part.client = client;
        part.status = status;
        if (status == store::PartStatus::Evaluated) part.accepted = now_;
    }

    JobState state_;
    Timestamp now_ = at(0);
    std::vector<Effect> effects_;
    store::JobRow row_;
    std::map<std::string, int> seen_;
    std::vector<store::RoundRow> rounds_;
    std::map<std::pair<RoundId, ClientId>, store::PartRow> parts_;
};

}  // namespace fedllm::server::round
