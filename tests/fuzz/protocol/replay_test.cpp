// The fuzz targets on valid seeds, and on thousands of seeds broken at random.
#include <gtest/gtest.h>

#include "common/base/philox.hpp"
#include "common/protocol/frame.hpp"
#include "common/protocol/messages.hpp"
#include "tests/common/protocol/bytes.hpp"
#include "tests/fuzz/protocol/targets.hpp"

namespace fedllm::protocol {
namespace {

using Target = int (*)(const std::uint8_t*, std::size_t);

void run(Target target, const std::vector<std::byte>& bytes) {
    target(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

void mutate(std::vector<std::byte>& bytes, Rng& rng) {
    for (std::uint64_t edits = 1 + rng.below(4); edits > 0 && !bytes.empty(); --edits) {
        const auto at = static_cast<std::ptrdiff_t>(rng.below(bytes.size()));
        switch (rng.below(4)) {
            case 0: bytes[static_cast<std::size_t>(at)] = static_cast<std::byte>(rng.next_u32()); break;
            case 1: bytes[static_cast<std::size_t>(at)] ^= static_cast<std::byte>(1u << rng.below(8)); break;
            case 2: bytes.erase(bytes.begin() + at); break;
            default: bytes.insert(bytes.begin() + at, static_cast<std::byte>(rng.next_u32()));
        }
    }
}

void replay(Target target, const std::vector<std::vector<std::byte>>& seeds) {
    Rng rng(2026, "fuzz replay");
    for (const auto& seed : seeds) {
        run(target, seed);
        for (int i = 0; i < 5000; ++i) {
            auto bytes = seed;
            mutate(bytes, rng);
            run(target, bytes);
        }
    }
}

std::vector<std::vector<std::byte>> message_seeds() {
    const std::string digest(64, '0');
    ClientMessage hello, offer;
    hello.mutable_hello()->set_protocol_version(1);
    hello.mutable_hello()->add_base_models("tiny");
    offer.mutable_offer()->set_task_id("j1/0/a");
    offer.mutable_offer()->set_digest(digest);
    offer.mutable_offer()->set_bytes(70000);
    offer.mutable_offer()->set_train_loss(2.5);
    ServerMessage report;
    report.mutable_job_report()->mutable_summary()->set_job_id("j1");
    auto& part = *report.mutable_job_report()->add_rounds()->add_parts();
    part.set_client("a");
    part.set_loss(1.5);
    return {encode(hello), encode(offer), encode(report), from_hex_text("3a 00"), {}};
}

TEST(FuzzReplay, Messages) { replay(&fuzz::messages, message_seeds()); }

TEST(FuzzReplay, Frames) {
    std::vector<std::vector<std::byte>> seeds;
    for (const auto& message : message_seeds()) {
        if (!message.empty()) seeds.push_back(encode_control(message));
    }
    auto two = encode_chunk(1u << 20, to_bytes("tensor bytes"));
    two.insert(two.end(), seeds[0].begin(), seeds[0].end());
    seeds.push_back(two);
    replay(&fuzz::frame, seeds);
}

TEST(FuzzReplay, Sessions) {
    std::vector<std::vector<std::byte>> seeds;
    for (int first = 0; first < 256; first += 5) {
        std::vector<std::byte> seed;
        for (int i = 0; i < 40; ++i) seed.push_back(static_cast<std::byte>(first + 7 * i));
        seeds.push_back(seed);
    }
    replay(&fuzz::session, seeds);
}

}  // namespace
}  // namespace fedllm::protocol
