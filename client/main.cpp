// fedllm-client: the daemon that runs at each site, next to the data.
#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "client/agent/agent.hpp"
#include "common/log/log.hpp"
#include "common/net/connect.hpp"
#include "common/net/task_group.hpp"
#include "common/net/tls_files.hpp"
#include "common/service/notify.hpp"
#include "common/service/private_files.hpp"
#include "common/service/version.hpp"

namespace {

using namespace fedllm;
using client::agent::Agent;
using client::agent::ClientConfig;
namespace asio = net::asio;

constexpr const char* kFooter = R"(
The site's data never leaves this machine. What leaves it is one small, norm-bounded update per round, and only for
jobs within the 'policy' section of the configuration file.

Getting started:
  1. The operator of the server runs 'fedllm invite NAME' and gives you a folder with client.yaml, client.key,
     client.crt and ca.crt.
  2. In client.yaml, point 'models' at your copy of the base model (a Hugging Face folder) and 'data.path' at your
     examples: JSON lines with "text", "prompt"/"completion", "instruction"/"output" or "messages".
  3. fedllm-client --config client.yaml

It keeps connecting until it is stopped (SIGTERM or Ctrl-C), and takes up unfinished work after a restart.)";

using Connecting = net::awaitable<Result<std::unique_ptr<net::Stream>>>;

// A certificate that was renewed serves from the next connection on; one that cannot be used does not replace
// it.
Connecting connect(const ClientConfig& to, net::ReloadingTls& tls) {
    if (const auto fresh = tls.refresh(); !fresh) {
        log::error("certificate not reloaded: the one in use stays in use",
                   {{"reason", to_string(fresh.error())}});
    } else if (*fresh) {
        log::info("certificate reloaded", {{"certificate", tls.files().certificate.string()}});
    }
    FEDLLM_CO_TRY(net::Connected connected,
                  co_await net::connect_tls(to.server.host, to.server.port, tls.context(), to.server_name(),
                                            protocol::Limits{}.handshake_deadline));
    co_return std::move(connected.stream);
}

void tell_service_manager(std::string_view state) {
    if (auto told = service::notify(state); !told)
        log::warn("service manager", {{"reason", told.error().message}});
}

net::awaitable<void> supervise(Agent& agent, bool& worker_busy) {
    const auto executor = co_await asio::this_coro::executor;
    net::TaskGroup group(executor);
    asio::signal_set signals(executor, SIGINT, SIGTERM);
    group.spawn("client", agent.run(), [&agent] { agent.stop(); });
    tell_service_manager("READY=1");
    const auto [failed, number] = co_await signals.async_wait(net::kNoThrow);
    log::info("signal received", {{"signal", number}});
    tell_service_manager("STOPPING=1");
    co_await group.stop(std::chrono::seconds(4));
    worker_busy = agent.worker_busy();
}

Result<int> run(const Path& file) {
    FEDLLM_TRY(const ClientConfig config, client::agent::load_client_config(file));
    FEDLLM_TRY_VOID(service::keep_private(config.state_directory));
    log::setup({.format = config.log.format, .level = config.log.level, .sink = {}});
    FEDLLM_TRY(net::ReloadingTls tls,
               net::ReloadingTls::open(
                   {.ca = config.tls.ca, .certificate = config.tls.certificate, .key = config.tls.key},
                   &net::make_client_context));
    asio::io_context io(1);
    FEDLLM_TRY(auto agent,
               Agent::open(io.get_executor(), config, [&config, &tls] { return connect(config, tls); }));
    bool worker_busy = false;
    std::exception_ptr escaped;
    asio::co_spawn(io, supervise(*agent, worker_busy), [&](std::exception_ptr thrown) {
        escaped = thrown;
        io.stop();
    });
    io.run();
    if (escaped) std::rethrow_exception(escaped);
    log::info("stopped");
    // A training step may take longer than a service manager waits. Everything on disk is written atomically,
    // so leaving in the middle of a step loses that step and nothing else.
    if (worker_busy) std::_Exit(0);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{"fedllm-client: trains on this site's data for a federation, without the data leaving"};
    std::string file = "client.yaml";
    bool print = false;
    app.add_option("--config,-c", file, "the configuration file")->capture_default_str();
    app.add_flag("--print-config", print,
                 "print the configuration in effect, commented (without a file: the example), and exit");
    app.set_version_flag("--version", "fedllm-client " + std::string(service::version()));
    app.footer(kFooter);
    CLI11_PARSE(app, argc, argv);

    try {
        if (print) {
            auto config = app.count("--config") > 0
                              ? client::agent::load_client_config(file)
                              : Result<ClientConfig>(client::agent::example_client_config());
            if (config) std::fputs(client::agent::print_client_config(*config).c_str(), stdout);
            if (!config) std::fprintf(stderr, "fedllm-client: %s\n", to_string(config.error()).c_str());
            return config ? 0 : 1;
        }
        const auto code = run(file);
        if (code) return *code;
        std::fprintf(stderr, "fedllm-client: %s\n", to_string(code.error()).c_str());
    } catch (const std::exception& escaped) {
        std::fprintf(stderr, "fedllm-client: a defect: %s\n", escaped.what());
    }
    return 1;
}
