// Connections that never finish their handshake, in thousands.
#pragma once

#include <pthread.h>
#include <time.h>

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <cstdint>
#include <thread>

#include "common/net/task_group.hpp"

namespace fedllm::test {

struct StrangersOptions {
    std::uint16_t port = 0;
    int half_open = 0;  // connect and say nothing
    int slow = 0;       // say the beginning of a ClientHello, a byte a second
    // How long one stays when nobody hangs up on it. For ever: it is what holds a server's places. For less:
    // it is what makes a server take connections in.
    std::chrono::milliseconds stays = std::chrono::hours(24);
    // Whoever is gone comes again after so long. A scanner's or a botnet's member waits much longer before it
    // tries the same address again; two seconds are the shortest first wait of clients that are merely
    // broken.
    std::chrono::milliseconds comes_again = std::chrono::seconds(2);
};

// Each from its own address of the loopback network, all on one thread of their own, kept up until
// destruction.
class Strangers {
public:
    explicit Strangers(const StrangersOptions& options) : options_(options) {
        for (int i = 0; i < options_.half_open + options_.slow; ++i)
            tasks_.spawn("stranger", come_again(i, /*slow=*/i >= options_.half_open));
        thread_ = std::thread([this] { io_.run(); });
    }
    ~Strangers() {
        io_.stop();
        thread_.join();
    }
    Strangers(const Strangers&) = delete;
    Strangers& operator=(const Strangers&) = delete;

    std::uint64_t arrivals() const { return arrivals_; }
    int present() const { return present_; }  // connected, and not yet hung up on
    // Of their thread. On loopback the kernel's half of the server's side of a handshake runs in it, too.
    double core_seconds() {
        clockid_t clock{};
        timespec time{};
        ::pthread_getcpuclockid(thread_.native_handle(), &clock);
        ::clock_gettime(clock, &time);
        return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    }

private:
    using tcp = net::asio::ip::tcp;

    net::awaitable<Result<void>> come_again(int number, bool slow) {
        for (;;) {
            tcp::socket socket(io_);
            const bool arrived = co_await arrives(socket, number);
            if (arrived) {
                ++arrivals_;
                ++present_;
                // A name for it: GCC 12 destroys a temporary across co_await twice.
                net::awaitable<Result<void>> visit = slow ? dribbles(socket) : hears_the_end(socket);
                (void)co_await net::within(options_.stays, std::move(visit));
                --present_;
            }
            socket = tcp::socket(io_);
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(options_.comes_again));
        }
    }

    net::awaitable<bool> arrives(tcp::socket& socket, int number) {
        const auto host = 0x7f010000u + static_cast<unsigned>(number % 20'000) + 2;  // 127.1.0.2 and so on
        boost::system::error_code failed;
        socket.open(tcp::v4(), failed);
        if (!failed) socket.bind({net::asio::ip::address_v4(host), 0}, failed);
        if (failed) co_return false;
        const auto [refused] = co_await socket.async_connect(
            {net::asio::ip::address_v4::loopback(), options_.port}, net::kNoThrow);
        co_return !refused;
    }

    net::awaitable<Result<void>> hears_the_end(tcp::socket& socket) {
        std::array<char, 64> scrap;
        [[maybe_unused]] const auto [end, count] =
            co_await socket.async_read_some(net::asio::buffer(scrap), net::kNoThrow);
        co_return Result<void>{};
    }

    // The beginning of a ClientHello of 512 bytes.
    net::awaitable<Result<void>> dribbles(tcp::socket& socket) {
        static constexpr std::array<unsigned char, 6> kBegin{0x16, 0x03, 0x01, 0x02, 0x00, 0x01};
        for (std::size_t i = 0;; ++i) {
            const unsigned char byte = i < kBegin.size() ? kBegin[i] : 0;
            const auto [cut, sent] = co_await socket.async_send(net::asio::buffer(&byte, 1), net::kNoThrow);
            if (cut) co_return Result<void>{};
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(std::chrono::seconds(1)));
        }
    }

    StrangersOptions options_;
    std::atomic<std::uint64_t> arrivals_ = 0;
    std::atomic<int> present_ = 0;
    net::asio::io_context io_{1};
    net::TaskGroup tasks_{io_.get_executor()};
    std::thread thread_;
};

}  // namespace fedllm::test
