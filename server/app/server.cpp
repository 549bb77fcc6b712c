#include "server/app/server.hpp"

#include <malloc.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>

#include "common/base/memory.hpp"
#include "common/base/version.hpp"
#include "common/log/log.hpp"
#include "common/net/tls.hpp"
#include "common/service/notify.hpp"

namespace fedllm::server::app {

namespace asio = boost::asio;
using net::awaitable;

namespace {

protocol::Limits limits_of(const LimitsConfig& config) {
    protocol::Limits limits;
    limits.frame.control_bytes_max = config.message_bytes_max.bytes;
    limits.handshake_deadline = config.handshake_timeout;
    limits.greeting_deadline = config.greeting_timeout;
    limits.idle_deadline = config.idle_timeout;
    limits.ping_every = std::min(limits.ping_every, config.idle_timeout / 3);
    limits.rate_bytes_min = config.rate_min.bytes;
    limits.rate_window = config.rate_window;
    return limits;
}

// As configured, or as the machine has it now; a tenth is for uploads and everything else.
std::uint64_t sum_memory(const LimitsConfig& limits) {
    return limits.sum_memory.bytes > 0 ? limits.sum_memory.bytes : memory_limit() / 10 * 9;
}

edge::DoorOptions door_options(const ServerConfig& config) {
    edge::DoorOptions door;
    door.address = config.listen.address;
    door.port = config.listen.port;
    door.tls = {.ca = config.tls.ca, .certificate = config.tls.certificate, .key = config.tls.key};
    if (!config.tls.crl.empty()) door.tls.crl = config.tls.crl;
    door.files_every = config.tls.reload_every;
    door.handshake_deadline = config.limits.handshake_timeout;
    const std::size_t granted = edge::connections_within(edge::raise_descriptor_limit());
    if (granted < config.limits.connections_max) {
        log::warn("fewer connections than limits.connections_max: the system allows no more open files",
                  {{"connections_max", granted}, {"raise", "LimitNOFILE= or ulimit -Hn"}});
    }
    door.limits = {.connections_max = std::min<std::size_t>(granted, config.limits.connections_max),
                   .unauthenticated_max = config.limits.unauthenticated_max,
                   .unauthenticated_per_address = config.limits.unauthenticated_per_address,
                   .connections_per_client = config.limits.connections_per_client,
                   .connections_per_operator = config.limits.connections_per_operator,
                   .failures_max = config.limits.failures_per_minute,
                   .ban_time = config.limits.ban_time};
    return door;
}

// What one thread takes another gives back: the buffers of TLS records belong to whoever helps a connection.
// With an arena for each thread (glibc's way) every one of them keeps the most that it ever held, 37 KiB more
// for each of 1,000 uploading clients. One for all cost no time that could be measured, on two cores.
void share_memory() { ::mallopt(M_ARENA_MAX, 1); }

}  // namespace

Server::Server(const ServerConfig& config)
    : config_(config), stop_(io_.get_executor()), tasks_(io_.get_executor()) {}

Result<std::unique_ptr<Server>> Server::create(const ServerConfig& config) {
    share_memory();
    std::unique_ptr<Server> server(new Server(config));
    const engine::EngineOptions options{
        .state_directory = config.state_directory,
        .upload_bytes_max = config.limits.upload_bytes_max.bytes,
        .upload_memory = config.limits.upload_memory.bytes,
        .sum_memory = [limits = config.limits] { return sum_memory(limits); },
        .threads = config.threads,
        .retention = {.versions = config.retention.versions, .updates = config.retention.updates}};
    const auto on_fatal = [raw = server.get()](const Error& error) {
        if (!raw->fatal_) log::error("cannot go on", {{"reason", to_string(error)}});
        raw->fatal_ = error;
        raw->request_stop();
    };
    FEDLLM_TRY(server->engine_, engine::Engine::open(server->io_.get_executor(), options, server->clock_,
                                                     server->metrics_, on_fatal));
    FEDLLM_TRY(server->admin_, admin::Page::listen(server->io_.get_executor(), config.admin.address,
                                                   config.admin.port, server->admin_content()));
    FEDLLM_TRY(server->listener_, edge::Listener::open(server->io_.get_executor(), door_options(config),
                                                       config.threads, limits_of(config.limits),
                                                       server->clock_, *server->engine_, server->metrics_));
    return server;
}

admin::Content Server::admin_content() {
    const auto readiness = [this]() -> admin::Readiness {
        if (stopping_) return {.ready = false, .reason = "shutting down"};
        return {.ready = true, .reason = ""};
    };
    return {"fedllm-server", [this] { return metrics_.render(); }, readiness};
}

void Server::request_stop() {
    asio::post(io_, [this] {
        stopping_ = true;
        stop_.cancel();
    });
}

Result<void> Server::run() {
    FEDLLM_TRY_VOID(engine_->start());
    listener_->start();
    tasks_.spawn("admin page", admin_->serve());
    tasks_.spawn("signals", watch_signals());
    tasks_.spawn("shutdown", [](Server& server) -> awaitable<Result<void>> {
        [[maybe_unused]] auto [cancelled] = co_await server.stop_.async_wait(net::kNoThrow);
        co_await server.shut_down();
        co_return Result<void>{};
    }(*this));
    log::info("serving", {{"version", kVersion},
                          {"address", config_.listen.address},
                          {"port", port()},
                          {"metrics", "http://" + config_.admin.address + ":" + std::to_string(admin_port()) +
                                          "/metrics"},
                          {"state", config_.state_directory.string()}});
    if (auto told = service::notify("READY=1"); !told)
        log::warn("sd_notify", {{"reason", told.error().message}});
    io_.run();
    if (fatal_) return *fatal_;
    return {};
}

awaitable<Result<void>> Server::watch_signals() {
    asio::signal_set signals(io_, SIGINT, SIGTERM, SIGHUP);
    for (;;) {
        auto [ec, number] = co_await signals.async_wait(net::kNoThrow);
        if (ec) co_return Result<void>{};
        if (number != SIGHUP) {
            log::info("stopping", {{"signal", number == SIGTERM ? "SIGTERM" : "SIGINT"}});
            break;
        }
        listener_->reload_certificates();
    }
    request_stop();
    co_return Result<void>{};
}

awaitable<void> Server::shut_down() {
    if (auto told = service::notify("STOPPING=1"); !told)
        log::warn("sd_notify", {{"reason", told.error().message}});
    co_await listener_->stop();
    co_await engine_->stop();
    admin_->close();
    log::info("stopped; unfinished jobs go on at the next start");
    io_.stop();  // what is left are idle admin connections
}

}  // namespace fedllm::server::app
