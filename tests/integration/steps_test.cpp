// Downloads as differences, as the server offers and serves them: base + decoded step is the version, to the
// digest.
#include <chrono>
#include <set>
#include <thread>

#include "common/codec/codec.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "tests/integration/federation.hpp"

namespace fedllm::test {
namespace {

// One client through all rounds of a job; it holds the initial version, and never fetches another whole.
class Follower {
public:
    explicit Follower(Federation& federation) : federation_(federation), peer_(federation.invite("ash")) {}

    awaitable<Result<void>> run(std::vector<std::string> codecs, std::uint32_t rounds) {
        FEDLLM_CO_TRY_VOID(co_await peer_.connect(federation_.port(), codecs));
        for (std::uint32_t round = 0; round <= rounds; ++round) {
            FEDLLM_CO_TRY(const auto message, co_await peer_.next());
            const protocol::Task task = message.task();
            EXPECT_EQ(task.round(), round) << message.ShortDebugString();
            FEDLLM_CO_TRY_VOID(co_await follow(task));
            FEDLLM_CO_TRY_VOID(co_await answer(task));
        }
        co_return Result<void>{};
    }
    int steps() const { return steps_; }
    std::uint64_t fetched() const { return fetched_; }

private:
    awaitable<Result<void>> follow(protocol::Task task) {
        std::uint64_t bytes = 0;
        for (const auto& step : task.steps()) bytes += step.encoded_bytes();
        EXPECT_LT(bytes, task.model_bytes());
        if (task.steps().empty()) co_return Result<void>{};
        const protocol::VersionStep step = task.steps(task.steps_size() - 1);
        EXPECT_EQ(step.base_digest(), digest_of(version_));
        FEDLLM_CO_TRY(const auto encoded,
                      co_await peer_.fetch(task.task_id(), step.encoded_digest(), step.encoded_bytes()));
        EXPECT_EQ(crypto::to_hex(crypto::sha256(encoded)), step.encoded_digest());
        fetched_ += encoded.size();
        const auto sink = [this](std::uint64_t first, std::span<const float> values) {
            for (const float value : values) version_.values()[first++] += value;
        };
        FEDLLM_CO_TRY_VOID(
            codec::decode(codec::CodecId::Deadzone, codec::layout_of(version_.manifest()), encoded, sink));
        EXPECT_EQ(digest_of(version_), task.model_digest());
        ++steps_;
        // The whole version can be had as well, right after a step.
        FEDLLM_CO_TRY(const auto whole,
                      co_await peer_.fetch(task.task_id(), task.model_digest(), task.model_bytes()));
        EXPECT_EQ(crypto::to_hex(crypto::sha256(whole)), task.model_digest());
        fetched_ += whole.size();
        co_return Result<void>{};
    }

    awaitable<Result<void>> answer(protocol::Task task) {
        const auto update = encoded(honest_values(task.task_id()));
        const protocol::Offer offer = truthful_offer(task.task_id(), update);
        if (task.kind() == protocol::TASK_KIND_EVALUATE) {
            protocol::ClientMessage message;
            *message.mutable_evaluation() = offer.evaluation();
            FEDLLM_CO_TRY_VOID(co_await peer_.send(std::move(message)));
        } else {
            FEDLLM_CO_TRY_VOID(co_await peer_.send(offer));
            FEDLLM_CO_TRY(const auto proceed, co_await peer_.next());
            EXPECT_TRUE(proceed.has_proceed()) << proceed.ShortDebugString();
            FEDLLM_CO_TRY_VOID(co_await peer_.send_bytes(0, update));
        }
        FEDLLM_CO_TRY(const auto verdict, co_await peer_.next());
        EXPECT_EQ(verdict.verdict().outcome(), protocol::OUTCOME_ACCEPTED) << verdict.ShortDebugString();
        co_return Result<void>{};
    }

    std::string digest_of(const tensor::ParamSet& params) const {
        const Path file = federation_.folder() / "follower.safetensors";
        EXPECT_TRUE(formats::write_param_set(file, params));
        return crypto::to_hex(crypto::sha256(*read_file(file)));
    }

    Federation& federation_;
    Peer peer_;
    tensor::ParamSet version_{TinyJob::manifest()};
    int steps_ = 0;
    std::uint64_t fetched_ = 0;
};

TEST(Steps, LeadToEveryVersion) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 1, .minimum = 1, .rounds = 3, .download_codec = "deadzone"}.submit(federation);
    Loop loop;  // outlives the connection in it
    Follower follower(federation);
    const auto done = loop.run(follower.run({"none", "deadzone"}, 3));
    ASSERT_TRUE(done) << to_string(done.error());
    EXPECT_EQ(follower.steps(), 3);
    EXPECT_EQ(federation.metric("fedllm_client_bytes_total{client=\"ash\",direction=\"down\"}"),
              static_cast<double>(follower.fetched()));
    EXPECT_EQ(federation.metric("fedllm_round_close_seconds_count{job=\"j1\"}"), 3)
        << "once a version, at its first byte";
    EXPECT_GT(federation.metric("fedllm_round_close_seconds_sum{job=\"j1\"}"), 0);
    EXPECT_EQ(federation.metric("fedllm_round_close_seconds_bucket{job=\"j1\",le=\"60\"}"), 3);
    const auto folder = federation.folder() / "state" / "versions";
    const auto counted = [&] {
        std::map<std::string, int> kinds;
        for (const auto& file : std::filesystem::directory_iterator(folder)) ++kinds[file.path().extension()];
        return kinds;
    };
    auto kinds = counted();
    for (int i = 0; i < 1000 && kinds[".residual"] > 1; ++i) {  // what is spent goes behind the first bytes
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        kinds = counted();
    }
    EXPECT_EQ(kinds[".safetensors"], 4);
    EXPECT_EQ(kinds[".step"], 3);
    EXPECT_EQ(kinds[".residual"], 1) << "only of the latest version";
}

TEST(Steps, AreNotOfferedToWhoCannotDecodeThem) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 1, .minimum = 1, .rounds = 1, .download_codec = "deadzone"}.submit(federation);
    Loop loop;  // outlives the connection in it
    Follower follower(federation);
    const auto done = loop.run(follower.run({"none", "bf16"}, 1));
    ASSERT_TRUE(done) << to_string(done.error());
    EXPECT_EQ(follower.steps(), 0);
}

}  // namespace
}  // namespace fedllm::test
