// Alone in its file: the kernel's header and the C library's, which Asio includes, define the same names.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/net/wire_bytes.hpp"

namespace fedllm::net {

WireBytes wire_bytes_of(int socket) {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
    return {info.tcpi_bytes_acked, info.tcpi_bytes_received};
}

}  // namespace fedllm::net
