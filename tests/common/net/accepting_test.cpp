// An accepted socket before there is TLS on it: the first record is waited for in the kernel.
#include <boost/asio/write.hpp>

#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

using asio::ip::tcp;

class AcceptingTest : public ::testing::Test {
public:  // the tests' coroutines are not members
    void visit(awaitable<void> body) {
        run(loop_, [](AcceptingTest& t, awaitable<void> body) -> awaitable<void> {
            co_await std::move(body);
            t.accepting_.reset();  // with its deadline, for which the loop would wait
        }(*this, std::move(body)));
    }
    // A connection, of which the test is the client's end.
    awaitable<void> connect(Duration deadline = 10s) {
        auto acceptor = listen_tcp(loop_.get_executor(), "127.0.0.1", 0).value();
        co_await client_.async_connect(acceptor.local_endpoint(), asio::use_awaitable);
        accepting_.emplace(co_await acceptor.async_accept(asio::use_awaitable), deadline);
        start(loop_.get_executor(), accepting_->hello(), hello_);
    }
    awaitable<void> says(std::span<const std::byte> bytes) {
        co_await asio::async_write(client_, asio::buffer(bytes.data(), bytes.size()), asio::use_awaitable);
    }
    awaitable<void> heard() {
        co_await until([this] { return hello_.has_value(); });
    }
    awaitable<Error> refused() {
        const auto connected = co_await accepting_->finish(loop_.get_executor(), server_);
        co_return connected ? make_error(Errc::Internal, "it was let in") : connected.error();
    }

    asio::io_context loop_;
    TemporaryFolder folder_;
    TestAuthority authority_{folder_.path()};
    TlsContext server_ = make_server_context(authority_.issue(Role::Server, "server")).value();
    TlsContext context_ = make_client_context(authority_.issue(Role::Client, "ash")).value();
    tcp::socket client_{loop_};
    std::optional<Accepting> accepting_;
    std::optional<Result<void>> hello_;
};

TEST_F(AcceptingTest, AHelloInPiecesIsWaitedForAndAnswered) {
    visit([](AcceptingTest& t) -> awaitable<void> {
        co_await t.connect();
        t.client_.set_option(tcp::no_delay(true));
        const auto hello = client_hello(t.context_);
        const std::span<const std::byte> bytes(hello);
        for (std::size_t at = 0; at + 1 < bytes.size(); ++at) {
            EXPECT_FALSE(t.hello_) << "after " << at << " bytes";
            co_await t.says(bytes.subspan(at, 1));
            if (at < 10 || at % 50 == 0) (void)co_await sleep_for(2ms);
        }
        (void)co_await sleep_for(20ms);
        EXPECT_FALSE(t.hello_) << "a byte is missing";
        co_await t.says(bytes.last(1));
        co_await t.heard();
        EXPECT_TRUE(*t.hello_);

        std::optional<Result<Connected>> connected;
        start(t.loop_.get_executor(), t.accepting_->finish(t.loop_.get_executor(), t.server_), connected);
        std::array<std::byte, 1> answer{};
        co_await t.client_.async_read_some(asio::buffer(answer), asio::use_awaitable);
        EXPECT_EQ(answer[0], std::byte{0x16}) << "a ServerHello";
        t.accepting_->close();
        co_await until([&] { return connected.has_value(); });
        EXPECT_EQ(connected->error().code, Errc::Cancelled);
    }(*this));
}

TEST_F(AcceptingTest, WhoLeavesBeforeIsGone) {
    visit([](AcceptingTest& t) -> awaitable<void> {
        co_await t.connect();
        const auto hello = client_hello(t.context_);
        co_await t.says(std::span(hello).first(100));
        t.client_.close();
        co_await t.heard();
        EXPECT_EQ(t.hello_->error().code, Errc::PeerClosed) << to_string(t.hello_->error());
    }(*this));
}

TEST_F(AcceptingTest, WhoSaysNothingIsLate) {
    visit([](AcceptingTest& t) -> awaitable<void> {
        co_await t.connect(20ms);
        co_await t.heard();
        EXPECT_EQ(t.hello_->error().code, Errc::Timeout) << to_string(t.hello_->error());
    }(*this));
}

// Nothing but that is judged here.
TEST_F(AcceptingTest, WhatIsNoTlsIsLeftToOpenssl) {
    visit([](AcceptingTest& t) -> awaitable<void> {
        co_await t.connect();
        const std::string_view request = "GET / HTTP/1.1\r\n\r\n";
        co_await t.says(std::as_bytes(std::span(request)));
        co_await t.heard();
        EXPECT_TRUE(*t.hello_);
        const Error error = co_await t.refused();
        EXPECT_EQ(error.code, Errc::PeerUntrusted) << to_string(error);
    }(*this));
}

TEST_F(AcceptingTest, ALongRecordIsNotWaitedForToItsEnd) {
    visit([](AcceptingTest& t) -> awaitable<void> {
        co_await t.connect();
        std::vector<std::byte> record(5000);
        record[0] = std::byte{0x16};
        record[1] = std::byte{3};
        record[3] = record[4] = std::byte{0xff};  // 65,535 bytes: more than TLS allows
        co_await t.says(record);
        co_await t.heard();
        EXPECT_TRUE(*t.hello_);
        const Error error = co_await t.refused();
        EXPECT_EQ(error.code, Errc::PeerUntrusted) << to_string(error);
    }(*this));
}

TEST_F(AcceptingTest, ClosingResetsTheConnection) {
    visit([](AcceptingTest& t) -> awaitable<void> {
        co_await t.connect();
        t.accepting_->close();
        co_await t.heard();
        EXPECT_EQ(t.hello_->error().code, Errc::Cancelled);
        std::array<std::byte, 1> byte;
        const auto [ec, count] = co_await t.client_.async_read_some(asio::buffer(byte), kNoThrow);
        EXPECT_EQ(ec, asio::error::connection_reset);
        EXPECT_EQ((co_await t.refused()).code, Errc::Cancelled);
    }(*this));
}

}  // namespace
}  // namespace fedllm::net
