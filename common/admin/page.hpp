// A daemon's admin page: GET /metrics (Prometheus), /healthz (the process answers), /readyz (it does its
// work). Plain HTTP, meant for loopback or a private network; it changes nothing and tells no tensor or
// secret.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <string>

#include "common/net/task_group.hpp"

namespace fedllm::admin {

struct Readiness {
    bool ready = false;
    std::string reason;  // why not
};

struct Content {
    std::string program;                   // "fedllm-server", for the Server header
    std::function<std::string()> metrics;  // in Prometheus' text format
    std::function<Readiness()> readiness;
};

// Lifecycle: listen(), serve() once, which returns after close(). Concurrency: all on the executor (one
// thread). Limits: 32 connections at once; each is closed after ten silent seconds.
class Page {
public:
    // What `content` stands on must outlive the page. Port 0 lets the system choose.
    static Result<std::unique_ptr<Page>> listen(net::asio::any_io_executor executor,
                                                const std::string& address, std::uint16_t port,
                                                Content content);

    std::uint16_t port() const;
    net::awaitable<Result<void>> serve();
    void close();

private:
    Page(net::asio::ip::tcp::acceptor acceptor, Content content)
        : acceptor_(std::move(acceptor)), content_(std::move(content)), requests_(acceptor_.get_executor()) {}

    net::asio::ip::tcp::acceptor acceptor_;
    Content content_;
    net::TaskGroup requests_;
};

}  // namespace fedllm::admin
