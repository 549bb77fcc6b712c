#include "common/service/notify.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace fedllm::service {

Result<void> notify(std::string_view state) {
    const char* variable = std::getenv("NOTIFY_SOCKET");
    if (variable == nullptr || *variable == '\0') return {};
    const std::string_view name(variable);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if ((name[0] != '/' && name[0] != '@') || name.size() >= sizeof address.sun_path) {
        return make_error(Errc::InvalidArgument, "NOTIFY_SOCKET is '" + std::string(name) +
                                                     "', expected a path or an abstract name after '@'");
    }
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';  // the abstract name space
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());

    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return make_error(Errc::IoFailed, std::string("NOTIFY_SOCKET: ") + std::strerror(errno));
    const ssize_t sent = ::sendto(fd, state.data(), state.size(), MSG_NOSIGNAL,
                                  reinterpret_cast<const sockaddr*>(&address), length);
    const int number = errno;
    ::close(fd);
    if (sent < 0) return make_error(Errc::IoFailed, "NOTIFY_SOCKET: " + std::string(std::strerror(number)));
    return {};
}

}  // namespace fedllm::service
