// How OpenSSL reaches a socket of ours: straight, without buffers of its own in between. Private to
// common/net.
#pragma once

#include <cstddef>
#include <vector>

#include "common/net/openssl.hpp"

namespace fedllm::net {

// What TLS records are read from and written to. Lifecycle: outlives the SSL that uses it. Concurrency: one
// thread at a time.
struct SocketEnd {
    int socket = -1;            // does not block
    bool ended = false;         // the peer said that nothing more comes
    int failed = 0;             // errno of the last call that failed otherwise than by having to wait
    std::vector<char> waiting;  // of records written, what the kernel has not taken yet
    std::vector<char>* gathered = nullptr;  // while a Gathering lives
};

// Everything that waits is with the kernel; false: it takes no more now, or it failed.
bool flush(SocketEnd& end);

// While it lives the records that are written go to the kernel several at a time. Not across a wait: they are
// gathered in memory of the thread, and only what is left of them at the end is the connection's, since a
// thousand slow readers must not each hold room for the most that one call may bring.
class Gathering {
public:
    explicit Gathering(SocketEnd& end);
    Gathering(const Gathering&) = delete;
    Gathering& operator=(const Gathering&) = delete;
    ~Gathering();

private:
    SocketEnd& end_;
};

Bio make_socket_bio(SocketEnd& end);

}  // namespace fedllm::net
