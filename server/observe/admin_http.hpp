// The admin page: GET /metrics (Prometheus), /healthz (the process answers), /readyz (it serves clients).
// Plain HTTP, meant for loopback or a private network; it changes nothing and tells no tensor or secret.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <string>

#include "server/observe/metrics.hpp"

namespace fedllm::server::observe {

struct Readiness {
    bool ready = false;
    std::string reason;  // why not
};

// One request after another on `socket`, until the peer closes, errs, or is silent for ten seconds.
// `metrics` and `readiness` outlive the call.
boost::asio::awaitable<void> serve_admin(boost::asio::ip::tcp::socket socket, Metrics& metrics,
                                         std::function<Readiness()> readiness);

}  // namespace fedllm::server::observe
