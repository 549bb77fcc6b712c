#include "tests/integration/fault_proxy.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <vector>

#include "common/net/connect.hpp"

namespace fedllm::test {

namespace asio = net::asio;
using asio::ip::tcp;
using net::awaitable;
using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {

// A line has little memory of its own: what it holds at a cut is lost.
constexpr int kSocketBuffer = 64 << 10;
constexpr std::size_t kPiece = 8 << 10;
constexpr std::size_t kPiecesInFlight = 64;

void reset(tcp::socket& socket) {
    boost::system::error_code ignored;
    socket.set_option(asio::socket_base::linger(true, 0), ignored);
    socket.close(ignored);
}

}  // namespace

// One way: what was read waits until its time has come.
struct FaultProxy::Pipe {
    Pipe(tcp::socket& source, tcp::socket& sink, std::atomic<std::uint64_t>& count)
        : from(source), to(sink), taken(count) {}

    tcp::socket& from;
    tcp::socket& to;
    std::atomic<std::uint64_t>& taken;
    std::deque<std::pair<SteadyClock::time_point, std::vector<char>>> pieces;
    SteadyClock::time_point free_at{};  // when the throttled line has sent what it was given
    bool ended = false;
};

struct FaultProxy::Link {
    Link(tcp::socket accepted, const asio::any_io_executor& executor, FaultProxy& proxy)
        : client(std::move(accepted)),
          server(executor),
          up(client, server, proxy.from_clients_),
          down(server, client, proxy.from_server_) {}

    tcp::socket client, server;
    Pipe up, down;
    std::uint64_t bytes = 0;
    bool over = false;
    bool half_open = false;
};

FaultProxy::FaultProxy(std::uint16_t server_port, const LineFaults& faults)
    : faults_(faults), server_port_(server_port) {
    acceptor_ = net::listen_tcp(io_.get_executor(), "127.0.0.1", 0).value();
    acceptor_.set_option(asio::socket_base::receive_buffer_size(kSocketBuffer));
    acceptor_.set_option(asio::socket_base::send_buffer_size(kSocketBuffer));
    port_ = acceptor_.local_endpoint().port();
    tasks_.spawn("proxy", accept());
    thread_ = std::thread([this] { io_.run(); });
}

FaultProxy::~FaultProxy() {
    io_.stop();
    thread_.join();
}

void FaultProxy::black_hole(Duration time) {
    asio::post(io_, [this, time] { dark_until_ = SteadyClock::now() + time; });
}

awaitable<Result<void>> FaultProxy::accept() {
    for (;;) {
        auto [ec, client] = co_await acceptor_.async_accept(net::kNoThrow);
        if (ec) co_return Result<void>{};
        ++connections_;
        tasks_.spawn("link", relay(std::move(client)));
    }
}

awaitable<Result<void>> FaultProxy::relay(tcp::socket client) {
    auto link = std::make_shared<Link>(std::move(client), io_.get_executor(), *this);
    link->server.open(tcp::v4());
    link->server.set_option(asio::socket_base::receive_buffer_size(kSocketBuffer));
    link->server.set_option(asio::socket_base::send_buffer_size(kSocketBuffer));
    const auto [ec] = co_await link->server.async_connect({asio::ip::make_address("127.0.0.1"), server_port_},
                                                          net::kNoThrow);
    if (ec) co_return Result<void>{};
    tasks_.spawn("up in", read(link, link->up));
    tasks_.spawn("up out", write(link, link->up));
    tasks_.spawn("down in", read(link, link->down));
    tasks_.spawn("down out", write(link, link->down));
    co_return Result<void>{};
}

awaitable<Result<void>> FaultProxy::read(std::shared_ptr<Link> link, Pipe& pipe) {
    std::vector<char> buffer(kPiece);
    while (!link->over) {
        if (pipe.pieces.size() >= kPiecesInFlight || SteadyClock::now() < dark_until_ || link->half_open) {
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(2ms));
            continue;
        }
        const auto [ec, count] = co_await pipe.from.async_read_some(asio::buffer(buffer), net::kNoThrow);
        if (ec) break;
        pipe.taken += count;
        const auto extra = Duration(
            static_cast<std::int64_t>(rng_.uniform(0.0f, 1.0f) * static_cast<float>(faults_.jitter.count())));
        auto due = SteadyClock::now() + faults_.delay + extra;
        if (!pipe.pieces.empty()) due = std::max(due, pipe.pieces.back().first);
        pipe.pieces.emplace_back(due, std::vector<char>(buffer.begin(), buffer.begin() + count));
    }
    pipe.ended = true;
    co_return Result<void>{};
}

awaitable<Result<void>> FaultProxy::write(std::shared_ptr<Link> link, Pipe& pipe) {
    while (!link->over) {
        const auto now = SteadyClock::now();
        const bool ready = !pipe.pieces.empty() && pipe.pieces.front().first <= now && pipe.free_at <= now;
        if (!ready || now < dark_until_) {
            if (pipe.pieces.empty() && pipe.ended) break;
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(1ms));
            continue;
        }
        const std::vector<char> piece = std::move(pipe.pieces.front().second);
        pipe.pieces.pop_front();
        if (faults_.bytes_per_second > 0) {
            const auto time =
                std::chrono::nanoseconds(piece.size() * 1'000'000'000 / faults_.bytes_per_second);
            pipe.free_at = std::max(pipe.free_at, now) + time;
        }
        if (link->half_open) continue;  // into nothing
        const auto [ec, count] = co_await asio::async_write(pipe.to, asio::buffer(piece), net::kNoThrow);
        if (ec || cut(*link, count)) break;
    }
    if (!link->half_open) {
        link->over = true;
        boost::system::error_code ignored;
        link->client.close(ignored);
        link->server.close(ignored);
    }
    co_return Result<void>{};
}

// Whether the connection is over.
bool FaultProxy::cut(Link& link, std::size_t bytes) {
    link.bytes += bytes;
    if (faults_.half_open_after > 0 && !half_opened_ && link.bytes >= faults_.half_open_after) {
        half_opened_ = link.half_open = true;
        ++cuts_;
        reset(faults_.survivor == LineFaults::Survivor::Server ? link.client : link.server);
    }
    if (faults_.reset_every > 0 && link.bytes >= faults_.reset_every) {
        ++cuts_;
        link.over = true;
        reset(link.client);
        reset(link.server);
    }
    return link.over;
}

}  // namespace fedllm::test
