// What a connection holds of what it has written.
#include "common/net/socket_bio.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

namespace fedllm::net {
namespace {

class SocketBioTest : public ::testing::Test {
protected:
    SocketBioTest() {
        std::array<int, 2> both{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, both.data()), 0);
        end_.socket = both[0];
        peer_ = both[1];
        bio_ = make_socket_bio(end_);
    }
    ~SocketBioTest() override {
        ::close(end_.socket);
        ::close(peer_);
    }

    // A record of 1,000 bytes; the next one has other bytes.
    bool write() {
        const std::string record(1000, static_cast<char>('a' + written_.size() / 1000 % 26));
        if (BIO_write(bio_.get(), record.data(), static_cast<int>(record.size())) != 1000) return false;
        written_ += record;
        return true;
    }
    // What has come to the peer by now.
    std::string read() {
        std::string all;
        std::array<char, 4096> some{};
        for (ssize_t got = 0; (got = ::recv(peer_, some.data(), some.size(), 0)) > 0;)
            all.append(some.data(), static_cast<std::size_t>(got));
        return all;
    }

    SocketEnd end_;
    Bio bio_;
    int peer_ = -1;
    std::string written_;
};

TEST_F(SocketBioTest, GatheredRecordsGoTogetherAndNothingIsKept) {
    {
        const Gathering gathering(end_);
        for (int i = 0; i < 5; ++i) EXPECT_TRUE(write());
        EXPECT_EQ(read(), "") << "they wait for each other";
    }
    EXPECT_EQ(read(), written_);
    EXPECT_EQ(end_.waiting.capacity(), 0u);
}

// A thousand slow readers: each holds what is left, not the room for the most that one call may bring.
TEST_F(SocketBioTest, ASlowReaderHoldsWhatIsLeftAndThenNothing) {
    while (end_.waiting.empty()) {
        const Gathering gathering(end_);
        for (int i = 0; i < 40 && end_.waiting.empty(); ++i) EXPECT_TRUE(write());
    }
    EXPECT_EQ(end_.waiting.capacity(), end_.waiting.size());
    EXPECT_FALSE(write()) << "the peer takes nothing";
    EXPECT_TRUE(BIO_should_retry(bio_.get()));
    std::string got = read();
    EXPECT_TRUE(write()) << "behind what waited, not before it";
    EXPECT_EQ(end_.waiting.capacity(), 0u);
    got += read();
    EXPECT_EQ(got, written_);
}

TEST_F(SocketBioTest, APeerThatIsGoneIsNoReasonToWait) {
    ::shutdown(end_.socket, SHUT_WR);
    EXPECT_FALSE(write());
    EXPECT_NE(end_.failed, 0);
    EXPECT_FALSE(BIO_should_retry(bio_.get()));
}

}  // namespace
}  // namespace fedllm::net
