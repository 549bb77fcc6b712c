#include "server/app/server_config.hpp"

namespace fedllm::server::app {
namespace {

using config::field;

config::Table<ServerConfig> make_table() {
    using C = ServerConfig;
    config::Table<C> table{
        field<C>(
            "listen.address", [](auto& c) -> auto& { return c.listen.address; },
            "where clients and operators connect"),
        field<C>(
            "listen.port", [](auto& c) -> auto& { return c.listen.port; }, "0 picks a free port and logs it"),
        field<C>(
            "tls.ca", [](auto& c) -> auto& { return c.tls.ca; },
            "the authority whose certificates are let in, and no other"),
        field<C>(
            "tls.certificate", [](auto& c) -> auto& { return c.tls.certificate; },
            "this server's certificate"),
        field<C>(
            "tls.key", [](auto& c) -> auto& { return c.tls.key; },
            "its private key; the file must be readable by this user alone (mode 0600)"),
        field<C>(
            "admin.address", [](auto& c) -> auto& { return c.admin.address; },
            "where /metrics, /healthz and /readyz are served, in plain HTTP"),
        field<C>(
            "admin.port", [](auto& c) -> auto& { return c.admin.port; }, "0 picks a free port and logs it"),
        field<C>(
            "state_directory", [](auto& c) -> auto& { return c.state_directory; },
            "ledger, model versions, spooled uploads and adapters; a local disk, one server per folder"),
        field<C>("threads", [](auto& c) -> auto& { return c.threads; },
                 "threads that check and add updates; 0 means one per core", {.max = 1024}),
        field<C>("limits.connections_max", [](auto& c) -> auto& { return c.limits.connections_max; },
                 "connections at once; more are closed on arrival", {.min = 1, .max = 100'000}),
        field<C>("limits.upload_bytes_max", [](auto& c) -> auto& { return c.limits.upload_bytes_max; },
                 "the largest model version or update taken", {.min = 4096}),
        field<C>("limits.upload_memory", [](auto& c) -> auto& { return c.limits.upload_memory; },
                 "memory of all uploads together: further ones wait their turn, in order; one takes about a "
                 "mebibyte",
                 {.min = 1 << 20}),
        field<C>("limits.idle_timeout", [](auto& c) -> auto& { return c.limits.idle_timeout; },
                 "a connection silent for this long is closed; clients say something every 20 s",
                 {.min = 1, .max = 86400}),
    };
    config::append(table, config::prefixed<C>(
                              "log", service::log_table(), [](auto& c) -> auto& { return c.log; }));
    return table;
}

}  // namespace

const config::Table<ServerConfig>& server_table() {
    static const config::Table<ServerConfig> table = make_table();
    return table;
}

Result<ServerConfig> load_server_config(const Path& file) {
    FEDLLM_TRY(ServerConfig loaded, config::load_yaml(file, server_table()));
    const Path folder = file.parent_path();
    for (Path* path : {&loaded.tls.ca, &loaded.tls.certificate, &loaded.tls.key, &loaded.state_directory}) {
        *path = folder / *path;  // an absolute path stays as it is
    }
    return loaded;
}

std::string print_server_config(const ServerConfig& config, config::Comments comments) {
    return config::print_yaml(config, server_table(), comments);
}

}  // namespace fedllm::server::app
