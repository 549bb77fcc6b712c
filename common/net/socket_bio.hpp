// How OpenSSL reaches a socket of ours: straight, without buffers of its own in between. Private to
// common/net.
#pragma once

#include <cstddef>
#include <vector>

#include "common/net/openssl.hpp"

namespace fedllm::net {

// What TLS records are read from and written to. Lifecycle: outlives the SSL that uses it. Concurrency: one
// thread.
struct SocketEnd {
    int socket = -1;            // does not block
    bool more = false;          // another record follows at once: this one may wait for it
    bool ended = false;         // the peer said that nothing more comes
    int failed = 0;             // errno of the last call that failed otherwise than by having to wait
    std::vector<char> waiting;  // records on their way to the kernel: one call for several of them
    std::size_t gone = 0;       // bytes of those that the kernel has
};

// Everything that waits is with the kernel; false: it takes no more now, or it failed.
bool flush(SocketEnd& end);

Bio make_socket_bio(SocketEnd& end);

}  // namespace fedllm::net
