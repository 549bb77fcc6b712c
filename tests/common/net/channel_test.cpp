// The same scripts over an in-memory pair and over TLS on loopback.
#include "common/net/channel.hpp"

#include <gtest/gtest.h>
#include <deque>

#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

using protocol::ClientMessage;
using protocol::FrameKind;

struct Pair {
    std::unique_ptr<Stream> left;
    std::unique_ptr<Stream> right;
};

enum class Wire { Memory, Tls };

class ChannelTest : public ::testing::TestWithParam<Wire> {
protected:
    // Two connected channels; `script` runs with them and they are closed afterwards.
    void with_channels(const protocol::Limits& limits,
                       const std::function<awaitable<void>(Channel&, Channel&)>& script) {
        run(loop_, connect_and(limits, script));
    }

    awaitable<void> connect_and(protocol::Limits limits,
                                const std::function<awaitable<void>(Channel&, Channel&)>& script) {
        Pair pair = co_await connect();
        Channel left(std::move(pair.left), limits);
        Channel right(std::move(pair.right), limits);
        left.set_frame_limits(limits.frame);
        right.set_frame_limits(limits.frame);
        co_await script(left, right);
        left.close();
        right.close();
        (void)co_await sleep_for(10ms);  // what was pending ends
    }

    awaitable<Pair> connect() {
        if (GetParam() == Wire::Memory) {
            auto [left, right] = make_memory_streams(loop_.get_executor());
            co_return Pair{std::move(left), std::move(right)};
        }
        Handshakes hands;
        co_await shake_hands(make_server_context(authority_.issue(Role::Server, "server")).value(),
                             make_client_context(authority_.issue(Role::Client, "site-a")).value(), hands);
        co_return Pair{std::move((*hands.client)->stream), std::move((*hands.server)->stream)};
    }

    asio::io_context loop_;
    TemporaryFolder folder_;
    TestAuthority authority_{folder_.path()};
};

INSTANTIATE_TEST_SUITE_P(Wires, ChannelTest, ::testing::Values(Wire::Memory, Wire::Tls),
                         [](const auto& wire) { return wire.param == Wire::Memory ? "Memory" : "Tls"; });

ClientMessage goodbye(std::string reason) {
    ClientMessage message;
    message.mutable_goodbye()->set_reason(std::move(reason));
    return message;
}

std::vector<std::byte> pattern(std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 251);
    return bytes;
}

awaitable<Result<void>> send_blob(Channel& channel, std::span<const std::byte> blob, std::size_t chunk) {
    for (std::size_t at = 0; at < blob.size(); at += chunk) {
        FEDLLM_CO_TRY_VOID(
            co_await channel.send_chunk(at, blob.subspan(at, std::min(chunk, blob.size() - at))));
    }
    co_return Result<void>{};
}

// Each chunk is looked at when those after it have arrived, as many as may be in hand.
awaitable<void> chunks_in_hand(Channel& left, Channel& right) {
    const auto blob = pattern(1'000'001);
    std::optional<Result<void>> sent;
    start(co_await asio::this_coro::executor, send_blob(left, blob, 64 << 10), sent);
    right.set_frames_in_hand(Channel::kFramesInHandMax);
    std::deque<protocol::Frame> in_hand;
    for (std::size_t offset = 0; offset < blob.size();) {
        const auto frame = co_await right.receive(10s);
        EXPECT_TRUE(frame) << to_string(frame.error());
        if (!frame) co_return;
        offset += frame->bytes.size();
        in_hand.push_back(*frame);
        if (in_hand.size() < Channel::kFramesInHandMax && offset < blob.size()) continue;
        const auto bytes = in_hand.front().bytes;
        EXPECT_TRUE(
            std::equal(bytes.begin(), bytes.end(), blob.begin() + static_cast<long>(in_hand.front().offset)));
        in_hand.pop_front();
    }
    co_await until([&] { return sent.has_value(); });
}

TEST_P(ChannelTest, ChunksStayWhileTheNextOnesArrive) { with_channels({}, &chunks_in_hand); }

// Now three at once, now one: none is written over while it is in hand.
awaitable<void> more_and_fewer_in_hand(Channel& left, Channel& right) {
    const auto blob = pattern(2'000'001);
    std::optional<Result<void>> sent;
    start(co_await asio::this_coro::executor, send_blob(left, blob, 64 << 10), sent);
    std::deque<protocol::Frame> in_hand;
    std::size_t most = 1;
    for (std::size_t offset = 0, chunks = 0; offset < blob.size(); ++chunks) {
        const auto frame = co_await right.receive(10s);
        EXPECT_TRUE(frame) << to_string(frame.error());
        if (!frame) co_return;
        offset += frame->bytes.size();
        in_hand.push_back(*frame);
        for (const protocol::Frame& one : in_hand) {
            EXPECT_TRUE(
                std::equal(one.bytes.begin(), one.bytes.end(), blob.begin() + static_cast<long>(one.offset)));
        }
        const std::size_t next = chunks % 7 < 4 ? Channel::kFramesInHandMax : 1;
        while (in_hand.size() >= next) in_hand.pop_front();
        if (next != most) right.set_frames_in_hand(most = next);
    }
    co_await until([&] { return sent.has_value(); });
}

TEST_P(ChannelTest, MoreAndFewerChunksInHand) { with_channels({}, &more_and_fewer_in_hand); }

awaitable<Result<void>> send_many(Channel& channel, int count) {
    for (int i = 0; i < count; ++i)
        FEDLLM_CO_TRY_VOID(co_await channel.send_control(goodbye(std::to_string(i))));
    co_return Result<void>{};
}

// Chunks and messages of two senders, each in its order and none torn.
awaitable<void> mixed(Channel& left, Channel& right) {
    const auto executor = co_await asio::this_coro::executor;
    const auto blob = pattern(3'000'001);
    std::optional<Result<void>> blob_sent, messages_sent;
    start(executor, send_blob(left, blob, 256 << 10), blob_sent);
    start(executor, send_many(left, 50), messages_sent);
    std::uint64_t offset = 0;
    int messages = 0;
    while (offset < blob.size() || messages < 50) {
        const auto frame = co_await right.receive(10s);
        EXPECT_TRUE(frame) << to_string(frame.error());
        if (!frame) co_return;
        if (frame->kind == FrameKind::Control) {
            const auto message = protocol::parse_client_message(frame->bytes);
            EXPECT_EQ(message.value().goodbye().reason(), std::to_string(messages++));
        } else {
            EXPECT_EQ(frame->offset, offset);
            EXPECT_TRUE(std::equal(frame->bytes.begin(), frame->bytes.end(),
                                   blob.begin() + static_cast<long>(offset)));
            offset += frame->bytes.size();
        }
    }
    co_await until([&] { return blob_sent && messages_sent; });
    EXPECT_TRUE(*blob_sent);
    EXPECT_TRUE(*messages_sent);
    EXPECT_EQ(left.stats().bytes_out, right.stats().bytes_in);
    EXPECT_EQ(left.stats().frames_out, 50u + 12u);
    EXPECT_EQ(right.stats().frames_in, 50u + 12u);
}

TEST_P(ChannelTest, FramesOfManySendersArriveWholeAndInOrder) { with_channels({}, &mixed); }

// Until the kernel's buffers are full and the sender gets no further; how far it got.
awaitable<std::uint64_t> until_stuck(const Channel& sender) {
    std::uint64_t before = 0;
    do {
        before = sender.stats().bytes_out;
        (void)co_await sleep_for(100ms);
    } while (sender.stats().bytes_out != before || before == 0);
    co_return before;
}

awaitable<void> slow_reader(Channel& left, Channel& right) {
    const auto executor = co_await asio::this_coro::executor;
    const auto blob = pattern(64 << 20);
    std::optional<Result<void>> sent;
    start(executor, send_blob(left, blob, 256 << 10), sent);
    EXPECT_LT(co_await until_stuck(left), 24u << 20) << "only the kernel's buffers may fill";
    EXPECT_FALSE(sent) << "the sender is not suspended";
    std::uint64_t taken = 0;
    while (taken < blob.size()) {
        const auto frame = co_await right.receive(10s);
        EXPECT_TRUE(frame) << to_string(frame.error());
        if (!frame) co_return;
        taken += frame->bytes.size();
    }
    co_await until([&] { return sent.has_value(); });
}

TEST_P(ChannelTest, SlowReaderSuspendsTheSender) { with_channels({}, &slow_reader); }

awaitable<void> too_many_senders(Channel& left, Channel& right) {
    const auto executor = co_await asio::this_coro::executor;
    const auto blob = pattern(64 << 20);
    std::optional<Result<void>> first;
    start(executor, send_blob(left, blob, 1 << 20), first);
    (void)co_await until_stuck(left);
    std::vector<std::optional<Result<void>>> others(5);
    for (auto& other : others) start(executor, send_many(left, 1), other);
    co_await until([&] { return others.back().has_value(); });
    EXPECT_EQ(others.back()->error().code, Errc::TooLarge);
    EXPECT_FALSE(others.front());
    left.close();
    co_await until([&] { return first && others.front() && others[3]; });
    EXPECT_EQ(others[3]->error().code, Errc::Cancelled);
    EXPECT_EQ(first->error().code, Errc::Cancelled);
    (void)right;
}

TEST_P(ChannelTest, SendersAreBoundedAndCloseWakesThem) {
    protocol::Limits limits;
    limits.senders_waiting_max = 4;
    with_channels(limits, &too_many_senders);
}

awaitable<void> silence(Channel& left, Channel& right) {
    const auto frame = co_await right.receive(30ms);
    EXPECT_FALSE(frame);
    EXPECT_EQ(frame.error().code, Errc::Timeout);
    EXPECT_TRUE(right.closed());
    EXPECT_EQ((co_await right.receive(30ms)).error().code, Errc::Timeout) << "the first reason stays";
    EXPECT_EQ((co_await right.send_control(goodbye(""))).error().code, Errc::Timeout);
    EXPECT_EQ((co_await left.receive(10s)).error().code, Errc::PeerClosed);
}

TEST_P(ChannelTest, SilenceIsATimeout) { with_channels({}, &silence); }

awaitable<void> stalled(Channel& left, Channel& right) {
    const auto blob = pattern(64 << 20);
    const auto sent = co_await send_blob(left, blob, 1 << 20);
    EXPECT_FALSE(sent);
    EXPECT_EQ(sent.error().code, Errc::Timeout) << to_string(sent.error());
    (void)right;
}

TEST_P(ChannelTest, ReaderThatTakesNothingIsATimeout) {
    protocol::Limits limits;
    limits.rate_window = 100ms;
    with_channels(limits, &stalled);
}

awaitable<void> close_wakes(Channel& left, Channel& right) {
    const auto executor = co_await asio::this_coro::executor;
    std::optional<Result<protocol::Frame>> received;
    start(executor, right.receive(60s), received);
    (void)co_await sleep_for(5ms);
    right.close();
    co_await until([&] { return received.has_value(); });
    EXPECT_EQ(received->error().code, Errc::Cancelled);
    EXPECT_EQ((co_await left.receive(10s)).error().code, Errc::PeerClosed);
}

TEST_P(ChannelTest, CloseWakesTheReceiver) { with_channels({}, &close_wakes); }

awaitable<void> last_words(Channel& left, Channel& right) {
    EXPECT_TRUE(co_await send_many(left, 3));
    co_await left.shutdown(100ms);
    for (int i = 0; i < 3; ++i) {
        const auto message = co_await right.receive_client_message(10s);
        EXPECT_TRUE(message) << to_string(message.error());
    }
    EXPECT_EQ((co_await right.receive(10s)).error().code, Errc::PeerClosed);
}

awaitable<Result<void>> drain(Channel& channel, std::vector<std::string>& reasons) {
    while (true) {
        const auto message = co_await channel.receive_client_message(10s);
        if (!message) co_return message.error();
        reasons.push_back(message->goodbye().reason());
    }
}

awaitable<void> graceful(Channel& left, Channel& right) {
    const auto executor = co_await asio::this_coro::executor;
    std::vector<std::string> reasons;
    std::optional<Result<void>> drained;
    start(executor, drain(right, reasons), drained);
    EXPECT_TRUE(co_await send_many(left, 3));
    const auto started = std::chrono::steady_clock::now();
    co_await left.shutdown(50s);
    co_await until([&] { return drained.has_value(); });
    EXPECT_EQ(drained->error().code, Errc::PeerClosed);
    EXPECT_EQ(reasons.size(), 3u);
    EXPECT_LT(std::chrono::steady_clock::now() - started, 40s) << "does not sit out its deadline";
}

TEST_P(ChannelTest, ShutdownLosesNothing) { with_channels({}, &graceful); }
TEST_P(ChannelTest, ShutdownToOneWhoReadsLater) { with_channels({}, &last_words); }

awaitable<void> hello_limits(Channel& left, Channel& right) {
    right.set_frame_limits(protocol::kGreetingLimits);
    std::optional<Result<void>> sent;  // over memory it waits for a reader, in vain
    start(co_await asio::this_coro::executor, left.send_control(goodbye(std::string(70'000, 'x'))), sent);
    const auto frame = co_await right.receive(10s);
    EXPECT_EQ(frame.error().code, Errc::TooLarge);
    EXPECT_FALSE(right.closed()) << "a Goodbye may still be said";
    EXPECT_TRUE(co_await right.send_control(goodbye("too large")));
    EXPECT_TRUE(co_await left.receive_client_message(10s));
    EXPECT_EQ((co_await left.send_control(goodbye(std::string(1 << 20, 'x')))).error().code, Errc::TooLarge);
    left.close();
    co_await until([&] { return sent.has_value(); });
}

TEST_P(ChannelTest, GreetingLimitsHoldUntilWelcome) { with_channels({}, &hello_limits); }

// The cable is cut after each number of bytes of a frame: PeerClosed, never a torn frame.
awaitable<void> cut_everywhere(asio::any_io_executor executor) {
    const auto data = pattern(20);
    for (std::size_t cut = 0; cut < 36; ++cut) {
        auto [left_stream, right_stream] = make_memory_streams(executor, 8);
        left_stream->cut_after(cut);
        Channel left(std::move(left_stream), {}), right(std::move(right_stream), {});
        right.set_frame_limits({});
        std::optional<Result<void>> sent;
        start(executor, left.send_chunk(0, data), sent);
        const auto frame = co_await right.receive(10s);
        EXPECT_EQ(frame.error().code, Errc::PeerClosed) << cut;
        co_await until([&] { return sent.has_value(); });
        EXPECT_EQ(sent->error().code, Errc::PeerClosed) << cut;
    }
}

TEST(MemoryChannel, CutAtEachByte) {
    asio::io_context loop;
    run(loop, cut_everywhere(loop.get_executor()));
}

awaitable<Result<void>> drip(Stream& stream, std::vector<std::byte> frame) {
    for (const std::byte& byte : frame) {
        const auto written = co_await stream.write_some(std::span(&byte, 1));
        if (!written) co_return written.error();
        FEDLLM_CO_TRY_VOID(co_await sleep_for(5ms));
    }
    co_return Result<void>{};
}

// Some byte arrives all the time, but too few in a window.
awaitable<void> dripping(asio::any_io_executor executor) {
    auto [left, right_stream] = make_memory_streams(executor);
    protocol::Limits limits;
    limits.rate_window = 60ms;
    Channel right(std::move(right_stream), limits);
    right.set_frame_limits({});
    std::optional<Result<void>> sent;
    start(executor, drip(*left, protocol::encode_chunk(0, pattern(1000))), sent);
    const auto frame = co_await right.receive(1s);
    EXPECT_EQ(frame.error().code, Errc::Timeout) << to_string(frame.error());
    co_await until([&] { return sent.has_value(); });
}

TEST(MemoryChannel, DrippingPeerIsATimeout) {
    asio::io_context loop;
    run(loop, dripping(loop.get_executor()));
}

}  // namespace
}  // namespace fedllm::net
