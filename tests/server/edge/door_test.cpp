// The door over real sockets with real certificates, and this test as the control strand behind it.
#include "server/edge/door.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/write.hpp>
#include <map>

#include "tests/common/net/support.hpp"

namespace fedllm::server::edge {
namespace {

using net::awaitable;
using net::Role;
using net::TlsFiles;
using net::asio::ip::tcp;
using namespace std::chrono_literals;

class DoorTest : public testing::Test {
public:  // the tests' coroutines are not members
    void open(DoorOptions options = {}) {
        options.address = "127.0.0.1";
        options.tls = server_files_;
        options.tls.crl = crl_;
        options.files_every = 20ms;
        const DoorEvents events{
            .admitted = [this](GuestId guest, net::Connected c) { inside_.emplace(guest, std::move(c)); },
            .expelled = [this](GuestId guest, const std::string& why) { expelled_[guest] = why; }};
        auto door = Door::open(loop_.get_executor(), options, clock_, metrics_, events);
        ASSERT_TRUE(door) << to_string(door.error());
        door_ = std::move(*door);
        door_->start();
    }

    // Runs `work` beside the door, then closes the door.
    void visit(awaitable<void> work) {
        net::run(loop_, [](awaitable<void> task, Door& door) -> awaitable<void> {
            co_await std::move(task);
            co_await door.stop();
        }(std::move(work), *door_));
    }

    awaitable<Result<net::Connected>> knock(TlsFiles files) {
        const auto tls = net::make_client_context(files);
        co_return co_await net::connect_tls("127.0.0.1", door_->port(), tls.value(), "localhost", 10s);
    }
    // From another address of this machine, without a word.
    awaitable<tcp::socket> stand_at_the_door(std::string from) {
        tcp::socket socket(loop_);
        socket.open(tcp::v4());
        socket.bind({net::asio::ip::make_address(from), 0});
        // Whoever is hung up on at once may learn it here already.
        (void)co_await socket.async_connect({net::asio::ip::make_address("127.0.0.1"), door_->port()},
                                            net::kNoThrow);
        co_return socket;
    }
    awaitable<bool> hung_up(tcp::socket& socket) {
        std::array<std::byte, 1> byte;
        const auto [ec, count] =
            co_await socket.async_read_some(net::asio::buffer(byte.data(), byte.size()), net::kNoThrow);
        co_return ec == net::asio::error::eof || ec == net::asio::error::connection_reset;
    }
    double refused(const std::string& why) {
        const std::string page = metrics_.render(), series = "_refused_total{reason=\"" + why + "\"} ";
        const auto place = page.find(series);
        return place == std::string::npos ? 0 : std::stod(page.substr(place + series.size()));
    }

    net::asio::io_context loop_{1};
    SystemClock clock_;
    observe::Metrics metrics_;
    net::TemporaryFolder folder_;
    net::TestAuthority authority_{folder_.path() / "ours"};
    TlsFiles server_files_ = authority_.issue(Role::Server, "server");
    TlsFiles client_files_ = authority_.issue(Role::Client, "ash");
    std::optional<Path> crl_;
    std::map<GuestId, net::Connected> inside_;
    std::map<GuestId, std::string> expelled_;
    std::unique_ptr<Door> door_;
};

TEST_F(DoorTest, HandsOverWhoProvesAnIdentityAndCountsTheRest) {
    open();
    visit([](DoorTest& t) -> awaitable<void> {
        const auto good = co_await t.knock(t.client_files_);
        EXPECT_TRUE(good);
        co_await net::until([&] { return t.inside_.size() == 1; });
        EXPECT_EQ(t.inside_.begin()->second.peer.name, ClientId("ash"));
        auto late = t.authority_.issue(Role::Client, "late", net::TestAuthority::expired());
        (void)co_await t.knock(late);
        co_await net::until([&] { return t.refused("peer_untrusted") == 1; });
        EXPECT_EQ(t.inside_.size(), 1u);
    }(*this));
}

// What crosses the connection afterwards is on the control strand, though the handshake was on the door's
// thread.
TEST_F(DoorTest, AConnectionThatWasHandedOverCarriesBytes) {
    open();
    visit([](DoorTest& t) -> awaitable<void> {
        auto client = co_await t.knock(t.client_files_);
        co_await net::until([&] { return t.inside_.size() == 1; });
        net::Stream& server = *t.inside_.begin()->second.stream;
        std::vector<std::byte> sent(100'000, std::byte{7}), got(sent.size());
        std::optional<Result<std::size_t>> written;
        net::start(t.loop_.get_executor(), client->stream->write_some(sent), written);
        std::size_t count = 0;
        while (count < 16'384) {
            const auto read = co_await server.read_some(got);
            if (!read) break;
            count += *read;
        }
        EXPECT_GE(count, 16'384u);
        client->stream->close();
        co_await net::until([&] { return written.has_value(); });
    }(*this));
}

TEST_F(DoorTest, OneAddressHoldsNoMoreThanItsShare) {
    DoorOptions options;
    options.limits.unauthenticated_per_address = 2;
    open(options);
    visit([](DoorTest& t) -> awaitable<void> {
        auto first = co_await t.stand_at_the_door("127.0.0.7");
        auto second = co_await t.stand_at_the_door("127.0.0.7");
        auto third = co_await t.stand_at_the_door("127.0.0.7");
        EXPECT_TRUE(co_await t.hung_up(third));
        co_await net::until([&] { return t.refused("address_max") == 1; });
        const auto honest = co_await t.knock(t.client_files_);
        EXPECT_TRUE(honest) << "from 127.0.0.1";
    }(*this));
}

// Each of them cost a place, and the places are few: TLS holds 81 KiB.
TEST_F(DoorTest, HoldersOfHandshakesCannotKeepHonestPeersOut) {
    DoorOptions options;
    options.limits.unauthenticated_max = 4;
    options.handshake_deadline = 60s;  // so that nobody leaves by itself
    open(options);
    visit([](DoorTest& t) -> awaitable<void> {
        const auto hello = net::client_hello(net::make_client_context(t.client_files_).value());
        std::vector<tcp::socket> holders;
        for (int i = 1; i <= 8; ++i) {
            holders.push_back(co_await t.stand_at_the_door("127.0.1." + std::to_string(i)));
            co_await net::asio::async_write(holders.back(), net::asio::buffer(hello),
                                            net::asio::use_awaitable);
            std::array<std::byte, 1> answer;  // the ServerHello: there is a handshake
            co_await holders.back().async_read_some(net::asio::buffer(answer), net::asio::use_awaitable);
        }
        const auto honest = co_await t.knock(t.client_files_);
        EXPECT_TRUE(honest) << to_string(honest.error());
        co_await net::until([&] { return t.refused("unauthenticated_max") == 5; });
    }(*this));
}

TEST_F(DoorTest, WhoSaysNothingTakesNoPlaceOfAHandshake) {
    DoorOptions options;
    options.limits.unauthenticated_max = 1;
    options.handshake_deadline = 60s;
    open(options);
    visit([](DoorTest& t) -> awaitable<void> {
        std::vector<tcp::socket> silent;
        for (int i = 1; i <= 8; ++i) {
            silent.push_back(co_await t.stand_at_the_door("127.0.1." + std::to_string(i)));
        }
        const std::array<unsigned char, 3> beginning{0x16, 0x03, 0x01};
        co_await net::asio::async_write(silent.back(), net::asio::buffer(beginning),
                                        net::asio::use_awaitable);
        const auto honest = co_await t.knock(t.client_files_);
        EXPECT_TRUE(honest) << to_string(honest.error());
        EXPECT_EQ(t.refused("unauthenticated_max"), 0);
    }(*this));
}

TEST_F(DoorTest, ADoorFullOfSilentPeersLetsAnHonestOneIn) {
    DoorOptions options;
    options.limits.connections_max = 4;
    options.handshake_deadline = 60s;
    open(options);
    visit([](DoorTest& t) -> awaitable<void> {
        std::vector<tcp::socket> silent;
        for (int i = 1; i <= 8; ++i) {
            silent.push_back(co_await t.stand_at_the_door("127.0.1." + std::to_string(i)));
        }
        const auto honest = co_await t.knock(t.client_files_);
        EXPECT_TRUE(honest) << to_string(honest.error());
        EXPECT_TRUE(co_await t.hung_up(silent.front())) << "the oldest made way";
        EXPECT_EQ(t.refused("connections_max"), 5);
    }(*this));
}

TEST_F(DoorTest, ASilentPeerIsDroppedAtTheDeadline) {
    DoorOptions options;
    options.handshake_deadline = 50ms;
    open(options);
    visit([](DoorTest& t) -> awaitable<void> {
        auto silent = co_await t.stand_at_the_door("127.0.0.7");
        EXPECT_TRUE(co_await t.hung_up(silent));
        co_await net::until([&] { return t.refused("timeout") == 1; });
    }(*this));
}

TEST_F(DoorTest, RefusedCertificatesBanTheirAddress) {
    DoorOptions options;
    options.limits.failures_max = 3;
    open(options);
    visit([](DoorTest& t) -> awaitable<void> {
        const auto late = t.authority_.issue(Role::Client, "late", net::TestAuthority::expired());
        for (int i = 0; i < 3; ++i) {
            (void)co_await t.knock(late);
            co_await net::until([&] { return t.refused("peer_untrusted") == i + 1; });
        }
        const auto banned = co_await t.knock(t.client_files_);
        EXPECT_FALSE(banned);
        co_await net::until([&] { return t.refused("banned") == 1; });
    }(*this));
}

TEST_F(DoorTest, TheOldestConnectionOfAnIdentityMustLeave) {
    open();
    visit([](DoorTest& t) -> awaitable<void> {
        std::vector<Result<net::Connected>> all;
        for (std::size_t i = 1; i <= 3; ++i) {
            all.push_back(co_await t.knock(t.client_files_));
            co_await net::until([&] { return t.inside_.size() == i; });
        }
        co_await net::until([&] { return t.expelled_.size() == 1; });
        EXPECT_EQ(t.expelled_.begin()->first, t.inside_.begin()->first);
        co_await net::until([&] { return t.refused("identity_max") == 1; });
    }(*this));
}

// Takes every descriptor that this process may have, and gives them back.
class NoDescriptors {
public:
    NoDescriptors() {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const rlimit few{.rlim_cur = 100, .rlim_max = before_.rlim_max};
        ::setrlimit(RLIMIT_NOFILE, &few);
        for (int taken = ::open("/dev/null", O_RDONLY); taken >= 0; taken = ::open("/dev/null", O_RDONLY)) {
            taken_.push_back(taken);
        }
    }
    ~NoDescriptors() {
        for (const int taken : taken_) ::close(taken);
        ::setrlimit(RLIMIT_NOFILE, &before_);
    }
    NoDescriptors(const NoDescriptors&) = delete;
    NoDescriptors& operator=(const NoDescriptors&) = delete;

private:
    rlimit before_{};
    std::vector<int> taken_;
};

TEST_F(DoorTest, WithoutDescriptorsPeersAreTurnedAwayAndTheDoorLives) {
    open();
    visit([](DoorTest& t) -> awaitable<void> {
        tcp::socket unlucky(t.loop_, tcp::v4());
        {
            const NoDescriptors none;
            co_await unlucky.async_connect({net::asio::ip::make_address("127.0.0.1"), t.door_->port()},
                                           net::asio::use_awaitable);
            EXPECT_TRUE(co_await t.hung_up(unlucky)) << "by the spare descriptor";
        }
        co_await net::until([&] { return t.refused("no_descriptors") >= 1; });
        const auto honest = co_await t.knock(t.client_files_);
        EXPECT_TRUE(honest) << to_string(honest.error());
    }(*this));
}

}  // namespace
}  // namespace fedllm::server::edge
