#include "server/edge/door.hpp"

#include <boost/asio/post.hpp>
#include <utility>

#include "common/log/log.hpp"

namespace fedllm::server::edge {

namespace asio = net::asio;
using asio::ip::tcp;
using boost::system::error_code;
using net::awaitable;

namespace {

constexpr std::size_t kLogLines = 10;
constexpr double kLogWindow = 10;            // seconds
constexpr Duration kNoDescriptorPause{100};  // ms
constexpr std::size_t kJudgedAtOnce = 64;    // certificates, between two looks at the door

bool out_of_descriptors(const error_code& error) {
    return error == asio::error::no_descriptors ||
           error == boost::system::errc::too_many_files_open_in_system;
}

}  // namespace

Result<std::unique_ptr<Door>> Door::open(asio::any_io_executor control, const DoorOptions& options,
                                         const Clock& clock, observe::Metrics& metrics, DoorEvents events) {
    FEDLLM_TRY(auto tls, net::ReloadingTls::open(options.tls, &net::make_server_context));
    std::unique_ptr<Door> door(
        new Door(std::move(control), options, std::move(tls), clock, metrics, std::move(events)));
    FEDLLM_TRY(door->acceptor_, net::listen_tcp(door->io_.get_executor(), options.address, options.port));
    error_code ignored;
    door->port_ = door->acceptor_.local_endpoint(ignored).port();
    return door;
}

Door::Door(asio::any_io_executor control, const DoorOptions& options, net::ReloadingTls tls,
           const Clock& clock, observe::Metrics& metrics, DoorEvents events)
    : control_(std::move(control)),
      options_(options),
      clock_(clock),
      metrics_(metrics),
      events_(std::move(events)),
      tls_(std::move(tls)),
      admission_(options.limits),
      log_budget_(kLogLines, kLogWindow) {}

Door::~Door() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
}

void Door::start() {
    tasks_.spawn("door", accept());
    tasks_.spawn("certificates", watch());
    thread_ = std::thread([this] { io_.run(); });
}

awaitable<void> Door::stop() {
    co_await asio::co_spawn(io_, net::as_optional(close()), asio::use_awaitable);
    thread_.join();
}

awaitable<Result<void>> Door::close() {
    error_code ignored;
    acceptor_.close(ignored);
    for (const auto& [guest, accepting] : arrivals_) accepting->close();
    co_await tasks_.stop(Duration(0));
    guests_.clear();
    co_return Result<void>{};
}

void Door::left(GuestId guest) {
    asio::post(io_, [this, guest] {
        guests_.erase(guest);
        admission_.leave(guest);
    });
}

void Door::reload() {
    asio::post(io_, [this] { reread(net::ReloadingTls::Look::Always); });
}

// -----------------------------------------------------------------------------------------------------------
// accepting

awaitable<Result<void>> Door::accept() {
    while (acceptor_.is_open()) {
        tcp::endpoint from;
        auto [ec, socket] = co_await acceptor_.async_accept(from, net::kNoThrow);
        if (ec == asio::error::operation_aborted) break;
        if (out_of_descriptors(ec)) {
            spare_.turn_one_away(acceptor_.native_handle());
            refused("no_descriptors", {}, ec.message());
        }
        if (ec) {
            FEDLLM_CO_TRY_VOID(co_await net::sleep_for(kNoDescriptorPause));
            continue;
        }
        const GuestId guest = ++last_guest_;
        if (const auto refusal = admission_.arrive(guest, from.address(), monotonic_seconds())) {
            refused(name(*refusal), from.address(), "closed on arrival");
            net::hang_up(socket);  // counted by now, whoever asks because of it
            continue;
        }
        make_room();
        tasks_.spawn("arrival", receive(std::move(socket), guest, from.address()));
    }
    co_return Result<void>{};
}

void Door::make_room() {
    const auto leaver = admission_.one_too_many();
    if (!leaver) return;
    admission_.failed(leaver->guest, /*offence=*/false, monotonic_seconds());
    refused(name(leaver->reason), {}, "the oldest made way");
    if (const auto place = arrivals_.find(leaver->guest); place != arrivals_.end()) place->second->close();
}

awaitable<Result<void>> Door::receive(tcp::socket socket, GuestId guest, asio::ip::address from) {
    net::Accepting accepting(std::move(socket), options_.handshake_deadline);
    arrivals_[guest] = &accepting;
    auto connected = co_await prove(guest, accepting);
    arrivals_.erase(guest);
    if (connected) {
        hand_over(guest, std::move(*connected));
        co_return Result<void>{};
    }
    const Error& error = connected.error();
    const bool offence = error.code == Errc::PeerUntrusted || error.code == Errc::Malformed;
    admission_.failed(guest, offence, monotonic_seconds());
    if (error.code != Errc::Cancelled) refused(fedllm::name(error.code), from, error.message);
    co_return Result<void>{};
}

awaitable<Result<net::Connected>> Door::prove(GuestId guest, net::Accepting& accepting) {
    FEDLLM_CO_TRY_VOID(co_await accepting.hello());
    admission_.spoke(guest);
    make_room();
    // The connection is the strand's from now on.
    co_return co_await accepting.finish(control_, tls_.context(), options_.helpers);
}

void Door::hand_over(GuestId guest, net::Connected connected) {
    guests_.emplace(guest, std::move(connected.proof));
    const auto too_many = admission_.authenticated(guest, connected.peer);
    asio::post(control_, [this, guest, connected = std::move(connected)]() mutable {
        events_.admitted(guest, std::move(connected));
    });
    if (!too_many) return;
    refused(name(Refusal::IdentityMax), {}, "the oldest of too many connections of one identity");
    expel(*too_many, "newer connections of this identity took over");
}

void Door::expel(GuestId guest, const std::string& reason) {
    guests_.erase(guest);
    admission_.leave(guest);
    asio::post(control_, [this, guest, reason] { events_.expelled(guest, reason); });
}

void Door::refused(std::string_view reason, const std::optional<asio::ip::address>& from,
                   const std::string& detail) {
    metrics_.connection_refused(reason);
    if (!log_budget_.take(monotonic_seconds())) return;
    log::warn("connection refused", {{"from", from ? from->to_string() : ""},
                                     {"why", reason},
                                     {"reason", detail},
                                     {"not_logged", log_budget_.take_missed()}});
}

// ---------------------------------------------------------------------------------------------------------------
// certificates

awaitable<Result<void>> Door::watch() {
    for (;;) {
        FEDLLM_CO_TRY_VOID(co_await net::sleep_for(options_.files_every));
        reread(net::ReloadingTls::Look::IfChanged);
        expel_expired();
    }
}

void Door::reread(net::ReloadingTls::Look look) {
    const auto fresh = tls_.refresh(look);
    if (!fresh) {
        log::error("certificates not reloaded: those in use stay in use",
                   {{"reason", to_string(fresh.error())}});
    }
    if (!fresh || !*fresh) return;
    const net::TlsFiles& files = tls_.files();
    log::info("certificates reloaded", {{"certificate", files.certificate.string()},
                                        {"crl", files.crl ? files.crl->string() : "none"}});
    tasks_.spawn("judging connections again", judge_again());
}

// Everybody who is connected, under the context that holds now. In pieces, for the door stays open meanwhile.
awaitable<Result<void>> Door::judge_again() {
    const net::TlsContext tls = tls_.context();
    GuestId done = 0;
    for (std::size_t count = 1;; ++count) {
        const auto next = guests_.upper_bound(done);
        if (next == guests_.end() || tls != tls_.context()) co_return Result<void>{};
        done = next->first;
        if (const auto good = next->second.check(tls); !good) expel(done, good.error().message);
        if (count % kJudgedAtOnce == 0) co_await asio::post(io_, asio::use_awaitable);
    }
}

void Door::expel_expired() {
    const Timestamp now = clock_.now();
    for (auto at = guests_.begin(); at != guests_.end();) {
        const auto guest = at++;  // expel() takes it out
        if (guest->second.not_after() < now) expel(guest->first, "the peer's certificate has expired");
    }
}

}  // namespace fedllm::server::edge
