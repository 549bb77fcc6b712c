#include "server/edge/descriptors.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

namespace fedllm::server::edge {
namespace {

constexpr std::size_t kOwnDescriptors = 128;

int reserve() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

std::size_t raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
    const rlimit wanted{.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    // A sandbox may forbid the call by killing us, so it is not made where there is nothing to raise.
    if (limit.rlim_cur < wanted.rlim_cur && ::setrlimit(RLIMIT_NOFILE, &wanted) == 0) limit = wanted;
    return static_cast<std::size_t>(limit.rlim_cur);
}

std::size_t connections_within(std::size_t descriptors) {
    return descriptors < 2 * kOwnDescriptors ? descriptors / 4 + 1 : (descriptors - kOwnDescriptors) / 2;
}

SpareDescriptor::SpareDescriptor() : held_(reserve()) {}

SpareDescriptor::~SpareDescriptor() {
    if (held_ >= 0) ::close(held_);
}

void SpareDescriptor::turn_one_away(int acceptor) {
    if (held_ >= 0) ::close(held_);
    const int taken = ::accept(acceptor, nullptr, nullptr);  // Asio made it non-blocking
    if (taken >= 0) ::close(taken);
    held_ = reserve();
}

}  // namespace fedllm::server::edge
