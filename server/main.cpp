// fedllm-server: leads federated jobs. See --help.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "common/base/version.hpp"
#include "common/log/log.hpp"
#include "common/service/private_files.hpp"
#include "server/app/server.hpp"

namespace {

using namespace fedllm;

constexpr const char* kHelp =
    "The aggregation server of a federation. It needs no GPU, no base model and no Python.\n\n"
    "  fedllm init --dir hub --host NAME     makes certificates and a commented server.yaml\n"
    "  fedllm-server --config hub/server.yaml\n\n"
    "It stops cleanly on SIGTERM, and goes on where it was after any end, kill -9 included.";

int fail(const Error& error) {
    std::fprintf(stderr, "fedllm-server: %s\n", to_string(error).c_str());
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(kHelp, "fedllm-server");
    std::string file = "server.yaml";
    bool print = false;
    app.add_option("-c,--config", file, "configuration file")->capture_default_str();
    app.add_flag("--print-config", print, "print the effective configuration and exit");
    app.set_version_flag("--version", "fedllm-server " + std::string(kVersion));
    CLI11_PARSE(app, argc, argv);

    auto config = server::app::load_server_config(file);
    if (!config) return fail(config.error());
    if (print) {
        std::fputs(server::app::print_server_config(*config, config::Comments::Yes).c_str(), stdout);
        return 0;
    }
    if (auto closed = service::keep_private(config->state_directory); !closed) return fail(closed.error());
    log::setup({.format = config->log.format, .level = config->log.level});
    auto server = server::app::Server::create(*config);
    if (!server) return fail(server.error());
    if (auto ended = (*server)->run(); !ended) return fail(ended.error());
    return 0;
}
