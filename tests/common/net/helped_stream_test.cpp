// A TLS stream whose large reads and writes others encrypt and decrypt.
#include <boost/asio/thread_pool.hpp>
#include <future>
#include <iterator>

#include "common/base/philox.hpp"
#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

std::vector<std::byte> some_bytes(std::size_t count, std::uint64_t seed) {
    Rng rng(seed, "bytes");
    std::vector<std::byte> bytes(count);
    for (std::byte& one : bytes) one = static_cast<std::byte>(rng.below(256));
    return bytes;
}

awaitable<Result<void>> write_all(Stream& stream, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        FEDLLM_CO_TRY(const std::size_t count, co_await stream.write_some(bytes));
        bytes = bytes.subspan(count);
    }
    co_return Result<void>{};
}

awaitable<Result<std::vector<std::byte>>> read_all(Stream& stream, std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::size_t done = 0; done < count;) {
        FEDLLM_CO_TRY(const std::size_t more, co_await stream.read_some(std::span(bytes).subspan(done)));
        done += more;
    }
    co_return bytes;
}

std::ptrdiff_t open_files() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
}

class HelpedStreamTest : public ::testing::Test {
protected:
    awaitable<void> connect(asio::thread_pool& helpers) {
        const TlsContext server = make_server_context(authority_.issue(Role::Server, "server")).value();
        const TlsContext client = make_client_context(authority_.issue(Role::Client, "site")).value();
        Handshakes both;
        co_await shake_hands(server, client, both, "localhost", helpers.get_executor());
        helped_ = std::move(both.server->value().stream);
        peer_ = std::move(both.client->value().stream);
    }

    TemporaryFolder folder_;
    TestAuthority authority_{folder_.path()};
    asio::io_context context_;
    std::unique_ptr<Stream> helped_, peer_;
};

TEST_F(HelpedStreamTest, BytesGoBothWaysAtOnce) {
    asio::thread_pool helpers(3);
    run(context_, [&]() -> awaitable<void> {
        co_await connect(helpers);
        const auto down = some_bytes(std::size_t{9} << 20, 1), up = some_bytes(std::size_t{11} << 20, 2);
        std::optional<Result<void>> sent_down, sent_up;
        std::optional<Result<std::vector<std::byte>>> came_down, came_up;
        start(context_.get_executor(), write_all(*helped_, down), sent_down);
        start(context_.get_executor(), write_all(*peer_, up), sent_up);
        start(context_.get_executor(), read_all(*peer_, down.size()), came_down);
        start(context_.get_executor(), read_all(*helped_, up.size()), came_up);
        co_await until([&] { return came_down && came_up && sent_down && sent_up; });
        EXPECT_TRUE(came_down->value() == down);
        EXPECT_TRUE(came_up->value() == up);
    }());
}

TEST_F(HelpedStreamTest, WhileAHelperIsAtItNobodyElseIsAndClosingWaitsForIt) {
    asio::thread_pool helpers(1);
    std::promise<void> free;
    asio::post(helpers, [&] { free.get_future().wait(); });
    run(context_, [&]() -> awaitable<void> {
        co_await connect(helpers);
        const auto large = some_bytes(std::size_t{1} << 20, 1), small = some_bytes(100, 2);
        std::optional<Result<std::size_t>> written, heard;
        std::optional<Result<std::vector<std::byte>>> read;
        start(context_.get_executor(), helped_->write_some(large), written);
        EXPECT_TRUE(co_await peer_->write_some(small));
        start(context_.get_executor(), read_all(*helped_, small.size()), read);
        (void)co_await sleep_for(50ms);
        EXPECT_FALSE(read) << "it would use OpenSSL beside the helper";

        const auto files = open_files();
        helped_->close();
        std::vector<std::byte> buffer(100);
        heard = co_await peer_->read_some(buffer);
        EXPECT_EQ(heard->error().code, Errc::PeerClosed) << "it hears of it at once";
        EXPECT_FALSE(written);
        EXPECT_EQ(open_files(), files) << "the helper may still use the descriptor";

        free.set_value();
        co_await until([&] { return written && read; });
        EXPECT_EQ(written->error().code, Errc::Cancelled);
        EXPECT_EQ(read->error().code, Errc::Cancelled);
        EXPECT_EQ(open_files(), files - 1);
    }());
}

TEST_F(HelpedStreamTest, SmallThingsNeedNoHelper) {
    asio::thread_pool helpers(1);
    std::promise<void> free;
    asio::post(helpers, [&] { free.get_future().wait(); });
    run(context_, [&]() -> awaitable<void> {
        co_await connect(helpers);
        const auto small = some_bytes(1000, 1);
        EXPECT_TRUE(co_await write_all(*peer_, small));
        EXPECT_TRUE((co_await read_all(*helped_, small.size())).value() == small);
        EXPECT_TRUE(co_await write_all(*helped_, small));
        EXPECT_TRUE((co_await read_all(*peer_, small.size())).value() == small);
        free.set_value();
    }());
}

}  // namespace
}  // namespace fedllm::net
