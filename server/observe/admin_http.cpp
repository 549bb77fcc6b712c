#include "server/observe/admin_http.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "common/base/version.hpp"

namespace fedllm::server::observe {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);
constexpr auto kIdle = std::chrono::seconds(10);
constexpr std::uint32_t kRequestBytesMax = 16 * 1024;

using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

Response answer(const Request& request, Metrics& metrics, const Readiness& readiness) {
    Response response(http::status::ok, request.version());
    response.set(http::field::server, "fedllm-server/" + std::string(kVersion));
    response.set(http::field::content_type, "text/plain; charset=utf-8");
    response.keep_alive(request.keep_alive());
    if (request.method() != http::verb::get) {
        response.result(http::status::method_not_allowed);
        response.body() = "only GET is served here\n";
    } else if (request.target() == "/metrics") {
        response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
        response.body() = metrics.render();
    } else if (request.target() == "/healthz") {
        response.body() = "ok\n";
    } else if (request.target() == "/readyz") {
        response.result(readiness.ready ? http::status::ok : http::status::service_unavailable);
        response.body() = readiness.ready ? "ready\n" : readiness.reason + "\n";
    } else {
        response.result(http::status::not_found);
        response.body() = "there is /metrics, /healthz and /readyz\n";
    }
    response.prepare_payload();
    return response;
}

}  // namespace

asio::awaitable<void> serve_admin(asio::ip::tcp::socket socket, Metrics& metrics,
                                  std::function<Readiness()> readiness) {
    beast::tcp_stream stream(std::move(socket));
    beast::flat_buffer buffer(kRequestBytesMax);
    for (;;) {
        stream.expires_after(kIdle);
        Request request;
        auto [read_error, read] = co_await http::async_read(stream, buffer, request, kNoThrow);
        if (read_error) co_return;
        Response response = answer(request, metrics, readiness());
        auto [write_error, written] = co_await http::async_write(stream, response, kNoThrow);
        if (write_error || response.need_eof()) co_return;
    }
}

}  // namespace fedllm::server::observe
