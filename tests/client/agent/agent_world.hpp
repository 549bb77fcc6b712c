// The daemon whole, with a real (tiny) model, against a scripted server over memory streams.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "common/log/log.hpp"
#include "tests/client/agent/fake_server.hpp"
#include "tests/client/agent/site.hpp"

namespace fedllm::client::agent {

class AgentTest : public testing::Test {
protected:
    AgentTest() {
        log::setup({.format = log::Format::Human,
                    .level = log::Level::Debug,
                    .sink = [this](std::string_view line) { log_ += std::string(line) + "\n"; }});
    }
    ~AgentTest() override { log::setup({}); }

    // Greets and follows one training task up to its Offer.
    awaitable<protocol::Offer> to_offer(Peer& peer, std::uint32_t round = 0) {
        co_await peer.task(job_, version_, round);
        co_await peer.send_version(version_);
        co_return co_await peer.offer();
    }
    std::string run(World::Script script) { return World().run(config_, std::move(script), backoff_); }

    // Coroutine lambdas below capture `this`, which outlives the world they run in.
    Site site_;
    ClientConfig config_ = site_.config();
    net::BackoffOptions backoff_ = World::kImpatient;
    job::JobSpec job_ = site_.job();
    // The version that tasks start from. Another seed than the job's made it: it has to be fetched.
    std::string version_ = site_.version([this] {
        job::JobSpec other = job_;
        other.seed += 1;
        return other;
    }());
    std::string log_;
};

}  // namespace fedllm::client::agent
