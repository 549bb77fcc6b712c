#include "server/app/server_config.hpp"

namespace fedllm::server::app {
namespace {

using config::field;

// The defaults are those of shared/reference/reliability.md, section 5.2.
config::Table<ServerConfig> limits_table() {
    using C = ServerConfig;
    return {
        field<C>("limits.connections_max", [](auto& c) -> auto& { return c.limits.connections_max; },
                 "connections at once; fewer where the system allows fewer files. When there are more, the "
                 "oldest that has said nothing yet makes way, or the oldest handshake, or else the newcomer "
                 "is closed",
                 {.min = 1, .max = 100'000}),
        field<C>(
            "limits.unauthenticated_max", [](auto& c) -> auto& { return c.limits.unauthenticated_max; },
            "TLS handshakes at once, from the first record on; when there are more, the oldest makes way",
            {.min = 1, .max = 100'000}),
        field<C>("limits.unauthenticated_per_address",
                 [](auto& c) -> auto& { return c.limits.unauthenticated_per_address; },
                 "connections at once of one IPv4 address or IPv6 /64 that have not ended their handshake",
                 {.min = 1, .max = 100'000}),
        field<C>(
            "limits.connections_per_client", [](auto& c) -> auto& { return c.limits.connections_per_client; },
            "connections of one client; when there are more, the oldest makes way", {.min = 1, .max = 1000}),
        field<C>("limits.connections_per_operator",
                 [](auto& c) -> auto& { return c.limits.connections_per_operator; },
                 "connections of one operator; when there are more, the oldest makes way",
                 {.min = 1, .max = 1000}),
        field<C>("limits.failures_per_minute", [](auto& c) -> auto& { return c.limits.failures_per_minute; },
                 "refused certificates of one address in a minute; at so many it is banned",
                 {.min = 1, .max = 100'000}),
        field<C>("limits.ban_time", [](auto& c) -> auto& { return c.limits.ban_time; },
                 "for how long nothing is taken from a banned address", {.min = 0, .max = 86400}),
        field<C>("limits.handshake_timeout", [](auto& c) -> auto& { return c.limits.handshake_timeout; },
                 "from the connection to the end of its TLS handshake", {.min = 0.1, .max = 60}),
        field<C>("limits.greeting_timeout", [](auto& c) -> auto& { return c.limits.greeting_timeout; },
                 "from the handshake to the first message", {.min = 0.1, .max = 60}),
        field<C>("limits.idle_timeout", [](auto& c) -> auto& { return c.limits.idle_timeout; },
                 "a connection silent for this long is closed; clients say something every 30 s",
                 {.min = 1, .max = 86400}),
        field<C>("limits.rate_min", [](auto& c) -> auto& { return c.limits.rate_min; },
                 "bytes per second that a peer must send or take while data is on its way",
                 {.min = 1, .max = 1 << 30}),
        field<C>("limits.rate_window", [](auto& c) -> auto& { return c.limits.rate_window; },
                 "over how long rate_min is measured", {.min = 0.1, .max = 600}),
        field<C>("limits.message_bytes_max", [](auto& c) -> auto& { return c.limits.message_bytes_max; },
                 "the longest message taken, tensors apart", {.min = 1 << 17, .max = 1 << 20}),
        field<C>("limits.upload_bytes_max", [](auto& c) -> auto& { return c.limits.upload_bytes_max; },
                 "the largest model version or update taken", {.min = 4096}),
        field<C>(
            "limits.upload_memory", [](auto& c) -> auto& { return c.limits.upload_memory; },
            "memory of all uploads together: further ones wait their turn, in order; one takes about two "
            "mebibytes",
            {.min = 1 << 20}),
        field<C>(
            "limits.sum_memory", [](auto& c) -> auto& { return c.limits.sum_memory; },
            "memory of the exact sums of all jobs, 8 bytes a value (4 with a job's aggregation.sum_bits: "
            "32): a "
            "job that does not fit is refused; 0: nine tenths of what the machine or container leaves"),
    };
}

config::Table<ServerConfig> retention_table() {
    using C = ServerConfig;
    return {
        field<C>("retention.versions", [](auto& c) -> auto& { return c.retention.versions; },
                 "the newest model versions of a job that stay, with their adapters and steps, besides the "
                 "first; a client further back fetches a whole version",
                 {.min = 2, .max = 1'000'000'000}),
        field<C>("retention.updates", [](auto& c) -> auto& { return c.retention.updates; },
                 "rounds whose updates stay on disk after their commit, so that `fedllm audit` can compute "
                 "their means again",
                 {.max = 1'000'000'000}),
    };
}

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
            "tls.crl", [](auto& c) -> auto& { return c.tls.crl; },
            "certificates that 'fedllm revoke' took back; empty: none. All four files are read again when "
            "they "
            "change, and on SIGHUP"),
        field<C>("tls.reload_every", [](auto& c) -> auto& { return c.tls.reload_every; },
                 "how often these files are looked at; who is revoked or has expired is disconnected then",
                 {.min = 0.1, .max = 60}),
        field<C>(
            "admin.address", [](auto& c) -> auto& { return c.admin.address; },
            "where /metrics, /healthz and /readyz are served, in plain HTTP"),
        field<C>(
            "admin.port", [](auto& c) -> auto& { return c.admin.port; }, "0 picks a free port and logs it"),
        field<C>(
            "state_directory", [](auto& c) -> auto& { return c.state_directory; },
            "ledger, model versions, spooled uploads and adapters; a local disk, one server per folder"),
        field<C>(
            "threads", [](auto& c) -> auto& { return c.threads; },
            "threads that compute versions, with up to eight for each that take updates in, and one that "
            "encrypts; 0: one per core",
            {.max = 1024}),
    };
    config::append(table, limits_table());
    config::append(table, retention_table());
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
    if (!loaded.tls.crl.empty()) loaded.tls.crl = folder / loaded.tls.crl;
    return loaded;
}

std::string print_server_config(const ServerConfig& config, config::Comments comments) {
    return config::print_yaml(config, server_table(), comments);
}

}  // namespace fedllm::server::app
