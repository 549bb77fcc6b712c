#include "tools/federation/authority.hpp"

#include <boost/asio/ip/address.hpp>
#include <filesystem>

#include "client/agent/client_config.hpp"
#include "common/net/revocation.hpp"
#include "common/net/tls.hpp"
#include "server/app/server_config.hpp"
#include "tools/federation/operator_config.hpp"

namespace fedllm::tools::federation {
namespace {

bool is_address(const std::string& host) {
    boost::system::error_code code;
    boost::asio::ip::make_address(host, code);
    return !code;
}

Result<void> write_credentials(const Path& folder, const std::string& stem,
                               const net::Credentials& credentials) {
    FEDLLM_TRY_VOID(write_file_atomically(folder / (stem + ".key"), credentials.key_pem, FileMode::Secret));
    return write_file_atomically(folder / (stem + ".crt"), credentials.certificate_pem);
}

// The record from which `fedllm revoke` knows what to take back, whoever holds the bundle.
Result<void> record_issued(const Path& folder, const std::string& certificate_pem) {
    FEDLLM_TRY(const auto facts, net::read_certificate(certificate_pem));
    FEDLLM_TRY_VOID(make_directories(folder / "issued"));
    const std::string name = facts.identity.name.get() + "-" + facts.identity.fingerprint.substr(0, 16);
    return write_file_atomically(folder / "issued" / (name + ".crt"), certificate_pem);
}

}  // namespace

Result<net::Credentials> read_authority(const Path& folder) {
    FEDLLM_TRY_VOID(net::check_key_file(folder / "ca.key"));
    auto certificate = read_file(folder / "ca.crt");
    auto key = read_file(folder / "ca.key");
    if (!certificate || !key) {
        return make_error(Errc::NotFound, folder.string() +
                                              ": no ca.crt and ca.key here; --dir names the folder that "
                                              "'fedllm init' made");
    }
    return net::Credentials{*certificate, *key};
}

Result<void> init_federation(const InitOptions& options, Timestamp now) {
    const Path& folder = options.folder;
    if (options.hosts.empty())
        return make_error(Errc::InvalidArgument, "the server needs at least one --host");
    if (std::filesystem::exists(folder / "ca.key")) {
        return make_error(
            Errc::AlreadyExists,
            (folder / "ca.key").string() +
                ": there is an authority here already; a new one would lock every invited site out");
    }
    FEDLLM_TRY_VOID(make_directories(folder));
    const net::Validity validity = net::valid_for(now, options.days);
    FEDLLM_TRY(const auto authority, net::create_authority("FedLLM federation authority", validity));

    net::CertificateRequest server{
        .role = net::Role::Server, .name = "server", .dns_names = {}, .addresses = {}, .validity = validity};
    for (const std::string& host : options.hosts) {
        (is_address(host) ? server.addresses : server.dns_names).push_back(host);
    }
    FEDLLM_TRY(const auto server_credentials, net::issue_certificate(authority, server));
    const net::CertificateRequest person{.role = net::Role::Operator,
                                         .name = "operator",
                                         .dns_names = {},
                                         .addresses = {},
                                         .validity = validity};
    FEDLLM_TRY(const auto operator_credentials, net::issue_certificate(authority, person));

    FEDLLM_TRY_VOID(write_credentials(folder, "server", server_credentials));
    FEDLLM_TRY_VOID(write_credentials(folder, "operator", operator_credentials));
    FEDLLM_TRY(const auto nobody, net::revoke(authority, "", {}, now));
    FEDLLM_TRY_VOID(write_file_atomically(folder / "crl.pem", nobody.crl_pem));
    server::app::ServerConfig config;
    config.tls.crl = "crl.pem";
    config.listen.port = options.port;
    config.admin.port = options.admin_port;
    FEDLLM_TRY_VOID(
        write_file_atomically(folder / "server.yaml",
                              "# Written by 'fedllm init'. Every key has its default or what was asked for; "
                              "see configs/REFERENCE.md.\n" +
                                  server::app::print_server_config(config, config::Comments::Yes)));
    OperatorConfig reach;
    reach.host = options.hosts.front();
    reach.port = options.port;
    FEDLLM_TRY_VOID(write_file_atomically(
        folder / "operator.yaml", config::print_yaml(reach, operator_table(), config::Comments::Yes)));
    // The authority last: only with it is the folder complete, and a failed init can simply be repeated.
    return write_credentials(folder, "ca", authority);
}

Result<Path> invite_client(const InviteOptions& options, Timestamp now) {
    FEDLLM_TRY_VOID(net::check_peer_name(options.name));
    FEDLLM_TRY(const auto authority, read_authority(options.folder));
    FEDLLM_TRY(const OperatorConfig reach, load_operator_config(options.folder));
    const Path out = options.out.empty() ? options.folder / "clients" / options.name : options.out;
    if (std::filesystem::exists(out / "client.key")) {
        return make_error(Errc::AlreadyExists, out.string() +
                                                   ": a bundle is here already; choose another --out, or "
                                                   "remove it first");
    }
    FEDLLM_TRY_VOID(make_directories(out));
    const net::CertificateRequest request{.role = net::Role::Client,
                                          .name = options.name,
                                          .dns_names = {},
                                          .addresses = {},
                                          .validity = net::valid_for(now, options.days)};
    FEDLLM_TRY(const auto credentials, net::issue_certificate(authority, request));
    FEDLLM_TRY_VOID(record_issued(options.folder, credentials.certificate_pem));
    FEDLLM_TRY_VOID(write_credentials(out, "client", credentials));
    FEDLLM_TRY_VOID(write_file_atomically(out / "ca.crt", authority.certificate_pem));
    client::agent::ClientConfig config = client::agent::example_client_config();
    config.server.host = reach.host;
    config.server.port = reach.port;
    config.server.name = reach.server_name;
    FEDLLM_TRY_VOID(write_file_atomically(
        out / "client.yaml", "# Written by 'fedllm invite " + options.name +
                                 "'. Fill in models and data, then: fedllm-client --config client.yaml\n" +
                                 client::agent::print_client_config(config)));
    return out;
}

}  // namespace fedllm::tools::federation
