// Truthful clients beside a real server, for tests that disturb it.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/net/task_group.hpp"
#include "tests/integration/federation.hpp"

namespace fedllm::test {

// Truthful clients on one thread. They answer what they are asked and come back after a cut, until the job is
// finished. `before_message(n)` runs before the n-th message that reaches any of them is handled.
class Crowd {
public:
    Crowd(Federation& federation, const std::vector<std::string>& names,
          std::function<void(int)> before_message)
        : federation_(federation), before_message_(std::move(before_message)) {
        for (const auto& name : names) peers_.push_back(std::make_unique<Peer>(federation_.invite(name)));
    }

    // Until all jobs are finished: the digest of this one's final model.
    std::string run(const std::string& job = "j1") {
        job_ = JobId(job);
        for (const auto& peer : peers_) tasks_.spawn("client", serve(*peer));
        tasks_.spawn("watch", watch());
        // Not run(): it would also wait for the timers of watchdogs that have nothing to watch any more.
        const auto deadline = std::chrono::steady_clock::now() + 3 * kPatience;
        while (tasks_.size() > 0 && std::chrono::steady_clock::now() < deadline)
            io_.run_one_for(std::chrono::milliseconds(100));
        EXPECT_FALSE(digest_.empty()) << "the job did not finish";
        return digest_;
    }
    int messages() const { return messages_; }
    const std::vector<std::string>& tasks() const { return asked_; }  // training tasks, in order

private:
    awaitable<Result<void>> serve(Peer& peer) {
        while (digest_.empty()) {
            // Named results: GCC 12 destroys a temporary across co_await twice.
            const Result<void> connected = co_await peer.connect(federation_.port());
            if (connected) {
                const Result<void> cut = co_await answer(peer);
                EXPECT_FALSE(cut);
            }
            const Result<void> slept = co_await net::sleep_for(std::chrono::milliseconds(10));
            if (!slept) break;
        }
        co_return Result<void>{};
    }

    awaitable<Result<void>> answer(Peer& peer) {
        for (;;) {
            FEDLLM_CO_TRY(const auto message, co_await peer.next());
            before_message_(++messages_);
            if (message.has_task()) {
                FEDLLM_CO_TRY_VOID(co_await on_task(peer, message.task()));
            } else if (message.has_proceed()) {
                FEDLLM_CO_TRY_VOID(co_await on_proceed(peer, message.proceed()));
            } else if (message.has_verdict()) {
                EXPECT_NE(message.verdict().outcome(), protocol::OUTCOME_REFUSED)
                    << message.ShortDebugString();
                settled_.insert(message.verdict().task_id());
            }
        }
    }

    awaitable<Result<void>> on_task(Peer& peer, const protocol::Task& task) {
        const std::string& id = task.task_id();
        const protocol::Offer offer = truthful_offer(id, encoded(honest_values(id)));
        if (task.kind() == protocol::TASK_KIND_TRAIN) {
            asked_.push_back(id);
            EXPECT_FALSE(settled_.contains(id)) << id << " is asked for again after its verdict";
            co_return co_await peer.send(offer);
        }
        protocol::ClientMessage message;
        *message.mutable_evaluation() = offer.evaluation();
        co_return co_await peer.send(std::move(message));
    }

    // In two pieces, so that a cut can fall between them.
    awaitable<Result<void>> on_proceed(Peer& peer, const protocol::Proceed& proceed) {
        EXPECT_FALSE(settled_.contains(proceed.task_id())) << proceed.task_id() << " is uploaded again";
        const auto update = encoded(honest_values(proceed.task_id()));
        const std::span<const std::byte> bytes(update);
        const std::size_t middle = bytes.size() / 2;
        if (proceed.offset() == 0) {
            FEDLLM_CO_TRY_VOID(co_await peer.send_bytes(0, bytes.first(middle)));
            before_message_(++messages_);
            co_return co_await peer.send_bytes(middle, bytes.subspan(middle));
        }
        if (proceed.offset() == bytes.size()) co_return Result<void>{};
        co_return co_await peer.send_bytes(proceed.offset(), bytes.subspan(proceed.offset()));
    }

    awaitable<Result<void>> watch() {
        while (digest_.empty()) {
            const Result<void> slept = co_await net::sleep_for(std::chrono::milliseconds(20));
            if (!slept) break;
            const auto link = federation_.operator_link();
            if (!link) continue;
            const auto list = (*link)->list_jobs();
            if (!list) continue;
            std::string digest;
            bool finished = true;
            for (const protocol::JobSummary& job : list->jobs()) {
                finished = finished && job.state() == "finished";
                if (job.job_id() == job_.get()) digest = job.model_digest();
            }
            if (finished) digest_ = digest;
        }
        for (const auto& peer : peers_) peer->close();
        co_return Result<void>{};
    }

    Federation& federation_;
    JobId job_;
    std::function<void(int)> before_message_;
    asio::io_context io_{1};
    net::TaskGroup tasks_{io_.get_executor()};
    std::vector<std::unique_ptr<Peer>> peers_;
    std::set<std::string> settled_;
    std::string digest_;
    int messages_ = 0;
    std::vector<std::string> asked_;
};

}  // namespace fedllm::test
