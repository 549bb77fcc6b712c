#include "common/admin/page.hpp"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <string>

namespace fedllm::admin {
namespace {

namespace asio = net::asio;

// Sends `text` to the page and returns all that comes back.
std::string talk(asio::io_context& io, Page& page, std::string text) {
    std::string heard;
    const auto conversation = [](Page& at, std::string say,
                                 std::string& hear) -> net::awaitable<Result<void>> {
        asio::ip::tcp::socket socket(co_await asio::this_coro::executor);
        auto [failed] =
            co_await socket.async_connect({asio::ip::make_address("127.0.0.1"), at.port()}, net::kNoThrow);
        EXPECT_FALSE(failed);
        [[maybe_unused]] auto [unsent, sent] =
            co_await asio::async_write(socket, asio::buffer(say), net::kNoThrow);
        [[maybe_unused]] auto [ended, read] =
            co_await asio::async_read(socket, asio::dynamic_buffer(hear), net::kNoThrow);
        at.close();
        co_return Result<void>{};
    };
    net::TaskGroup tasks(io.get_executor());
    tasks.spawn("page", page.serve());
    tasks.spawn("peer", conversation(page, std::move(text), heard));
    io.run();
    return heard;
}

class PageTest : public testing::Test {
protected:
    std::string ask(const std::string& request) {
        const Content content{"fedllm-test", [] { return std::string("answers 42\n"); },
                              [this] { return readiness_; }};
        auto page = Page::listen(io_.get_executor(), "127.0.0.1", 0, content);
        EXPECT_TRUE(page);
        return talk(io_, **page, request);
    }
    static std::string get(const std::string& target) {
        return "GET " + target + " HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
    }

    asio::io_context io_{1};
    Readiness readiness_{true, ""};
};

TEST_F(PageTest, Metrics) {
    const std::string heard = ask(get("/metrics"));
    EXPECT_TRUE(heard.starts_with("HTTP/1.1 200")) << heard;
    EXPECT_TRUE(heard.ends_with("\r\n\r\nanswers 42\n")) << heard;
    EXPECT_NE(heard.find("Content-Type: text/plain; version=0.0.4"), std::string::npos) << heard;
}

TEST_F(PageTest, ReadyOrTheReasonWhyNot) {
    EXPECT_TRUE(ask(get("/readyz")).ends_with("ready\n"));
    io_.restart();
    readiness_ = {false, "no connection to the server"};
    const std::string heard = ask(get("/readyz"));
    EXPECT_TRUE(heard.starts_with("HTTP/1.1 503")) << heard;
    EXPECT_TRUE(heard.ends_with("no connection to the server\n")) << heard;
}

TEST_F(PageTest, SeveralRequestsOnOneConnection) {
    const std::string heard = ask("GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n" + get("/metrics"));
    EXPECT_NE(heard.find("ok\n"), std::string::npos);
    EXPECT_TRUE(heard.ends_with("answers 42\n")) << heard;
}

TEST_F(PageTest, RefusesWhatItDoesNotServe) {
    EXPECT_TRUE(ask(get("/secret")).starts_with("HTTP/1.1 404"));
    io_.restart();
    EXPECT_TRUE(ask("DELETE /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                    .starts_with("HTTP/1.1 405"));
    io_.restart();
    EXPECT_EQ(ask("GET /" + std::string(20000, 'x') + " HTTP/1.1\r\n\r\n"), "");
}

}  // namespace
}  // namespace fedllm::admin
