// How OpenSSL reaches a socket of ours: straight, without buffers of its own in between. Private to
// common/net.
#pragma once

#include "common/net/openssl.hpp"

namespace fedllm::net {

// What TLS records are read from and written to. Lifecycle: outlives the SSL that uses it. Concurrency: one
// thread.
struct SocketEnd {
    int socket = -1;     // does not block
    bool more = false;   // another record follows at once: the kernel may wait for it before it sends
    bool ended = false;  // the peer said that nothing more comes
    int failed = 0;      // errno of the last call that failed otherwise than by having to wait
};

Bio make_socket_bio(SocketEnd& end);

}  // namespace fedllm::net
