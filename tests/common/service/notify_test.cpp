#include "common/service/notify.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace fedllm::service {
namespace {

class Listener {
public:
    explicit Listener(const std::string& name)
        : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, name.data(), name.size());
        if (name[0] == '@') address.sun_path[0] = '\0';
        const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
        EXPECT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&address), length), 0)
            << std::strerror(errno);
    }
    ~Listener() { ::close(fd_); }
    std::string received() const {
        char text[200];
        const ssize_t size = ::recv(fd_, text, sizeof text, 0);
        return size < 0 ? std::string("nothing") : std::string(text, static_cast<std::size_t>(size));
    }

private:
    int fd_;
};

class Notify : public testing::Test {
protected:
    ~Notify() override { ::unsetenv("NOTIFY_SOCKET"); }
};

TEST_F(Notify, IsSilentWithoutAServiceManager) {
    ::unsetenv("NOTIFY_SOCKET");
    EXPECT_TRUE(notify("READY=1"));
}

TEST_F(Notify, ReachesASocketFile) {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("notify_test." + std::to_string(::getpid()))).string();
    const Listener listener(path);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    EXPECT_TRUE(notify("READY=1"));
    EXPECT_EQ(listener.received(), "READY=1");
    std::filesystem::remove(path);
}

TEST_F(Notify, ReachesAnAbstractSocket) {
    const std::string name = "@fedllm_notify_test." + std::to_string(::getpid());
    const Listener listener(name);
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
    EXPECT_TRUE(notify("STOPPING=1"));
    EXPECT_EQ(listener.received(), "STOPPING=1");
}

TEST_F(Notify, ReportsWhatCannotBeReached) {
    for (const std::string& bad :
         {std::string("relative"), std::string(200, '/'), std::string("/no/such/socket")}) {
        ::setenv("NOTIFY_SOCKET", bad.c_str(), 1);
        EXPECT_FALSE(notify("READY=1")) << bad;
    }
}

}  // namespace
}  // namespace fedllm::service
