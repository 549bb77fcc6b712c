#include "server/app/server.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>

#include "common/base/version.hpp"
#include "common/log/log.hpp"
#include "common/net/tls.hpp"
#include "common/service/notify.hpp"

namespace fedllm::server::app {

namespace asio = boost::asio;
using net::awaitable;

Server::Server(const ServerConfig& config)
    : config_(config), stop_(io_.get_executor()), tasks_(io_.get_executor()) {}

Result<std::unique_ptr<Server>> Server::create(const ServerConfig& config) {
    std::unique_ptr<Server> server(new Server(config));
    FEDLLM_TRY(auto tls,
               net::make_server_context(
                   {.ca = config.tls.ca, .certificate = config.tls.certificate, .key = config.tls.key}));
    const engine::EngineOptions options{.state_directory = config.state_directory,
                                        .upload_bytes_max = config.limits.upload_bytes_max.bytes,
                                        .upload_memory = config.limits.upload_memory.bytes,
                                        .threads = config.threads};
    const auto on_fatal = [raw = server.get()](const Error& error) {
        if (!raw->fatal_) log::error("cannot go on", {{"reason", to_string(error)}});
        raw->fatal_ = error;
        raw->request_stop();
    };
    FEDLLM_TRY(server->engine_, engine::Engine::open(server->io_.get_executor(), options, server->clock_,
                                                     server->metrics_, on_fatal));
    FEDLLM_TRY(auto acceptor,
               net::listen_tcp(server->io_.get_executor(), config.listen.address, config.listen.port));
    FEDLLM_TRY(server->admin_, admin::Page::listen(server->io_.get_executor(), config.admin.address,
                                                   config.admin.port, server->admin_content()));
    protocol::Limits limits;
    limits.connections_max = config.limits.connections_max;
    limits.idle_deadline = config.limits.idle_timeout;
    server->listener_ = std::make_unique<edge::Listener>(std::move(acceptor), std::move(tls), limits,
                                                         *server->engine_, server->metrics_);
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
    tasks_.spawn("listener", listener_->run());
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
    asio::signal_set signals(io_, SIGINT, SIGTERM);
    auto [ec, number] = co_await signals.async_wait(net::kNoThrow);
    if (ec) co_return Result<void>{};
    log::info("stopping", {{"signal", number == SIGTERM ? "SIGTERM" : "SIGINT"}});
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
