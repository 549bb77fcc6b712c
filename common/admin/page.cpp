#include "common/admin/page.hpp"

#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "common/base/version.hpp"
#include "common/net/connect.hpp"

namespace fedllm::admin {
namespace {

namespace asio = net::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using net::awaitable;

constexpr auto kIdle = std::chrono::seconds(10);
constexpr auto kFarewell = std::chrono::milliseconds(100);  // for an answer that is under way at the end
constexpr std::uint32_t kRequestBytesMax = 16 * 1024;
constexpr std::size_t kConnectionsMax = 32;

using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

Response answer(const Request& request, const Content& content) {
    Response response(http::status::ok, request.version());
    response.set(http::field::server, content.program + "/" + std::string(kVersion));
    response.set(http::field::content_type, "text/plain; charset=utf-8");
    response.keep_alive(request.keep_alive());
    if (request.method() != http::verb::get) {
        response.result(http::status::method_not_allowed);
        response.body() = "only GET is served here\n";
    } else if (request.target() == "/metrics") {
        response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
        response.body() = content.metrics();
    } else if (request.target() == "/healthz") {
        response.body() = "ok\n";
    } else if (request.target() == "/readyz") {
        const Readiness readiness = content.readiness();
        response.result(readiness.ready ? http::status::ok : http::status::service_unavailable);
        response.body() = readiness.ready ? "ready\n" : readiness.reason + "\n";
    } else {
        response.result(http::status::not_found);
        response.body() = "there is /metrics, /healthz and /readyz\n";
    }
    response.prepare_payload();
    return response;
}

// One request after another, until the peer closes, errs or is silent.
awaitable<Result<void>> converse(asio::ip::tcp::socket socket, const Content& content) {
    beast::tcp_stream stream(std::move(socket));
    beast::flat_buffer buffer(kRequestBytesMax);
    for (;;) {
        stream.expires_after(kIdle);
        Request request;
        auto [read_error, read] = co_await http::async_read(stream, buffer, request, net::kNoThrow);
        if (read_error) co_return Result<void>{};
        Response response = answer(request, content);
        auto [write_error, written] = co_await http::async_write(stream, response, net::kNoThrow);
        if (write_error || response.need_eof()) co_return Result<void>{};
    }
}

}  // namespace

Result<std::unique_ptr<Page>> Page::listen(asio::any_io_executor executor, const std::string& address,
                                           std::uint16_t port, Content content) {
    FEDLLM_TRY(auto acceptor, net::listen_tcp(executor, address, port));
    return std::unique_ptr<Page>(new Page(std::move(acceptor), std::move(content)));
}

std::uint16_t Page::port() const {
    boost::system::error_code ignored;
    return acceptor_.local_endpoint(ignored).port();
}

void Page::close() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
}

awaitable<Result<void>> Page::serve() {
    while (acceptor_.is_open()) {
        auto [ec, socket] = co_await acceptor_.async_accept(net::kNoThrow);
        if (ec == asio::error::operation_aborted) break;
        if (ec) {
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(std::chrono::milliseconds(100)));
        } else if (requests_.size() < kConnectionsMax) {
            requests_.spawn("admin request", converse(std::move(socket), content_));
        }
    }
    co_await requests_.stop(kFarewell);
    co_return Result<void>{};
}

}  // namespace fedllm::admin
