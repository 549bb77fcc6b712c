#pragma once

#include <cstdint>

namespace fedllm::net {

// What a connection has moved, in bytes on the wire: with TLS records and handshake, without TCP's own
// headers.
struct WireBytes {
    std::uint64_t sent = 0;  // and acknowledged
    std::uint64_t received = 0;
};

WireBytes wire_bytes_of(int socket);  // as the kernel counts (TCP_INFO); zeros where it does not

}  // namespace fedllm::net
