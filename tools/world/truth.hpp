// What the world knows of its own: every update that was made and every verdict that was heard. The server's
// ledger and versions are held against it.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/job/job_spec.hpp"
#include "common/protocol/frame.hpp"
#include "common/protocol/messages.hpp"
#include "server/engine/engine.hpp"
#include "tools/world/network.hpp"

namespace fedllm::tools::world {

// Invariants, as check() looks at them:
//  - An update whose acceptance a server has sent is in its ledger with that digest from then on, crash or
//  not.
//  - The version that a round starts from is the same for ever, also when it was lost and is made again.
//  - A job never goes back, except to make such a version again, which nothing counted has started from.
//  - A job is paused or stopped only when its operator wished so; and so it stays when the operator was told,
//    until the next wish.
//  - Uploads never take more than their memory, each with at least a buffer of the largest chunk; an upload
//    that is more than all of it is alone.
//  - A committed version is its base plus the exact mean (128-bit integers) of exactly the updates that the
//  ledger
//    counts for its round, each of which its client has made for that task; with a download codec, version
//    and residual together are.
// The first violation is kept; after it the world should stop.
class Truth final : public Tap {
public:
    // An update that a client's worker has made.
    void made(const TaskId& task, const ClientId& client, const std::string& digest,
              std::vector<float> values, std::uint64_t samples);

    // An operator's wish, and what a server said that the job is now.
    void asked_for(const JobId& job, protocol::JobAction action);
    void controlled(const JobId& job, const std::string& status);

    void on_bytes(std::uint64_t connection, const ClientId& client, Side from,
                  std::span<const std::byte> bytes) override;
    void on_end(std::uint64_t connection) override;

    // Whether the server has said something since the last check that the ledger must bear out.
    bool curious() const { return curious_; }
    // Memory: after every event of the server. How many uploads wait for a share comes back.
    std::size_t check_memory(const server::engine::Engine& engine);
    enum class Thoroughness { News, Everything };
    void check(const server::engine::Engine& engine, Thoroughness how);

    const std::optional<std::string>& violation() const { return violation_; }
    void violated(std::string what);

    std::uint64_t acknowledged() const { return acknowledged_.size(); }
    std::uint64_t rounds_checked() const { return rounds_checked_; }
    std::uint64_t stale() const { return stale_; }  // contributions that started from an older version
    std::uint64_t bytes_made() const { return bytes_made_; }          // of updates
    std::uint64_t bytes_uploaded() const { return bytes_uploaded_; }  // in chunks, again or not

private:
    struct Made {
        ClientId client;
        TaskId task;
        std::vector<float> values;
        std::uint64_t samples = 0;
    };
    struct Talk {  // one connection
        std::vector<std::byte> pending[2];
        std::map<std::string, std::string> offers;  // task -> digest
    };
    struct JobTruth {
        job::JobSpec spec;
        RoundId next;               // to be checked
        std::vector<double> exact;  // with a download codec: what version and residual add up to
        std::map<RoundId, std::string> versions;
        std::set<protocol::JobAction> asked_for;  // ever
        std::string told;                         // the answer to the last wish; empty: none was heard
    };

    void on_frame(Talk& talk, const ClientId& client, Side from, const protocol::Frame& frame);
    void on_server_message(Talk& talk, const protocol::ServerMessage& message);
    void check_acknowledged(const server::store::Ledger& ledger, const std::set<std::string>& tasks);
    void check_job(const server::engine::Engine& engine, const server::store::JobRow& row);
    void check_status(const JobTruth& job, const server::store::JobRow& row);
    void check_round(const server::engine::Engine& engine, JobTruth& job,
                     const server::store::RoundRow& round);
    std::optional<std::vector<double>> exact_mean(const JobTruth& job, const server::store::RoundRow& round,
                                                  const std::vector<server::store::PartRow>& parts);
    void same_version(JobTruth& job, const JobId& id, RoundId round, const std::string& digest);

    std::map<std::string, std::map<std::string, Made>> made_;  // task -> digest
    std::map<std::uint64_t, Talk> talks_;
    std::map<std::string, std::string> acknowledged_;  // task -> digest
    std::set<std::string> unchecked_;                  // acknowledged since the last check
    std::map<JobId, JobTruth> jobs_;
    std::optional<std::string> violation_;
    bool curious_ = false;
    std::uint64_t rounds_checked_ = 0;
    std::uint64_t stale_ = 0;
    std::uint64_t bytes_made_ = 0;
    std::uint64_t bytes_uploaded_ = 0;
};

}  // namespace fedllm::tools::world
