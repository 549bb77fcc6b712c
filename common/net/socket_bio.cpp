#include "common/net/socket_bio.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace fedllm::net {
namespace {

SocketEnd& end_of(BIO* bio) { return *static_cast<SocketEnd*>(BIO_get_data(bio)); }

// Records of 16 KiB gathered for one call of the kernel: it costs more than the copy.
constexpr std::size_t kGatherBytes = std::size_t{64} << 10;

bool must_wait(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

// As OpenSSL's own: 0 is the end, -1 a failure or a wait. A 0 where it has to wait would make SSL_shutdown()
// say 0 for ever instead of what to wait for.
int receive(BIO* bio, char* data, std::size_t size, std::size_t* taken) {
    SocketEnd& end = end_of(bio);
    BIO_clear_retry_flags(bio);
    const ssize_t count = ::recv(end.socket, data, size, 0);
    *taken = count > 0 ? static_cast<std::size_t>(count) : 0;
    if (count > 0) return 1;
    if (count == 0) {
        end.ended = true;
        return 0;
    }
    if (must_wait(errno)) {
        BIO_set_retry_read(bio);
    } else {
        end.failed = errno;
    }
    return -1;
}

// The system's own BIO_s_socket() writes with write(2), which raises SIGPIPE when the peer is gone.
std::size_t hand_over(SocketEnd& end, const char* data, std::size_t size) {
    const ssize_t count = ::send(end.socket, data, size, MSG_NOSIGNAL);
    if (count >= 0) return static_cast<std::size_t>(count);
    if (!must_wait(errno)) end.failed = errno;
    return 0;
}

// The kernel gets what it takes of them now; the rest waits.
void hand_over(SocketEnd& end, std::vector<char>& records) {
    if (records.empty()) return;
    std::size_t gone = 0;
    while (gone < records.size()) {
        const std::size_t count = hand_over(end, records.data() + gone, records.size() - gone);
        if (count == 0) break;
        gone += count;
    }
    end.waiting.assign(records.begin() + static_cast<std::ptrdiff_t>(gone), records.end());
    records.clear();
}

int send(BIO* bio, const char* data, std::size_t size, std::size_t* taken) {
    SocketEnd& end = end_of(bio);
    BIO_clear_retry_flags(bio);
    *taken = 0;
    if (end.waiting.empty() && end.gathered != nullptr) {
        end.gathered->insert(end.gathered->end(), data, data + size);
        if (end.gathered->size() >= kGatherBytes) hand_over(end, *end.gathered);
        *taken = size;
    } else if (flush(end)) {
        *taken = hand_over(end, data, size);
    }
    if (*taken > 0) return 1;
    if (end.failed == 0) BIO_set_retry_write(bio);
    return -1;
}

long control(BIO* bio, int command, long, void*) {
    if (command == BIO_CTRL_EOF) return end_of(bio).ended ? 1 : 0;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO_METHOD* make_method() {
    BIO_METHOD* const method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket end");
    const bool made = method != nullptr && BIO_meth_set_read_ex(method, &receive) == 1 &&
                      BIO_meth_set_write_ex(method, &send) == 1 && BIO_meth_set_ctrl(method, &control) == 1;
    FEDLLM_CHECK(made, "OpenSSL BIO method");  // fails without memory only
    return method;
}

}  // namespace

bool flush(SocketEnd& end) {
    while (!end.waiting.empty()) {
        const std::size_t count = hand_over(end, end.waiting.data(), end.waiting.size());
        if (count == 0) return false;
        end.waiting.erase(end.waiting.begin(), end.waiting.begin() + static_cast<std::ptrdiff_t>(count));
    }
    end.waiting = std::vector<char>();  // an idle connection holds none, nor its room
    return true;
}

Gathering::Gathering(SocketEnd& end) : end_(end) {
    thread_local std::vector<char> records;
    end.gathered = &records;
}

Gathering::~Gathering() { hand_over(end_, *std::exchange(end_.gathered, nullptr)); }

Bio make_socket_bio(SocketEnd& end) {
    static BIO_METHOD* const method = make_method();  // as long as the process
    Bio bio(BIO_new(method));
    FEDLLM_CHECK(bio != nullptr, "OpenSSL BIO");
    BIO_set_data(bio.get(), &end);
    BIO_set_init(bio.get(), 1);
    return bio;
}

}  // namespace fedllm::net
