#include "tools/federation/free_port.hpp"

#include <unistd.h>

#include <atomic>
#include <boost/asio/ip/tcp.hpp>

#include "common/net/awaitable.hpp"

namespace fedllm::tools::federation {
namespace {

using net::asio::ip::tcp;

// Linux and its container runtimes take 32768 and up for outgoing connections.
constexpr std::uint32_t kFirst = 20000, kPorts = 12000;

bool is_free(std::uint16_t port) {
    net::asio::io_context io;
    tcp::acceptor acceptor(io);
    const tcp::endpoint endpoint(net::asio::ip::address_v4::loopback(), port);
    boost::system::error_code failed;
    acceptor.open(endpoint.protocol(), failed);
    if (!failed) acceptor.set_option(tcp::acceptor::reuse_address(true), failed);
    if (!failed) acceptor.bind(endpoint, failed);
    return !failed;
}

}  // namespace

std::uint16_t free_port() {
    static std::atomic<std::uint32_t> next{static_cast<std::uint32_t>(::getpid()) * 64};
    for (std::uint32_t tried = 0;; ++tried) {
        const auto port = static_cast<std::uint16_t>(kFirst + next++ % kPorts);
        if (tried == kPorts || is_free(port)) return port;  // none is: the server will say so
    }
}

}  // namespace fedllm::tools::federation
