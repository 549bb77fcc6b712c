// fedllm init, invite, revoke: certificates and configuration files.
#include <cstdio>
#include <memory>

#include "common/base/clock.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/federation/authority.hpp"
#include "tools/federation/revocation.hpp"

namespace fedllm::tools::cli {

void add_init(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<federation::InitOptions>();
    auto folder = std::make_shared<std::string>("hub");
    auto* command =
        app.add_subcommand("init", "Start a federation: authority, server certificate, server.yaml");
    command->footer(
        "Then: fedllm-server --config DIR/server.yaml, and 'fedllm invite NAME' for each site.\n"
        "DIR/ca.key signs new members: whoever has it can let anyone in.");
    command->add_option("--dir", *folder, "folder to make")->capture_default_str();
    command->add_option("--host", options->hosts, "name or address of the server; may be given several times")
        ->required();
    command->add_option("--port", options->port, "port of the server")->capture_default_str();
    command->add_option("--admin-port", options->admin_port, "port of /metrics on loopback")
        ->capture_default_str();
    command->callback([options, folder, &chosen] {
        chosen.run = [options, folder, &chosen]() -> Result<void> {
            options->folder = *folder;
            FEDLLM_TRY_VOID(federation::init_federation(*options, SystemClock().now()));
            if (chosen.json) {
                std::printf("%s\n", Json{{"dir", *folder}, {"host", options->hosts.front()}}.dump(2).c_str());
            } else {
                std::printf(
                    "federation made in %s\n  next: fedllm-server --config %s/server.yaml\n"
                    "        fedllm invite SITE --dir %s\n",
                    folder->c_str(), folder->c_str(), folder->c_str());
            }
            return {};
        };
    });
}

void add_invite(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<federation::InviteOptions>();
    auto folder = std::make_shared<std::string>("hub");
    auto out = std::make_shared<std::string>();
    auto* command =
        app.add_subcommand("invite", "Make the bundle of one site: key, certificate, client.yaml");
    command->footer(
        "Bring the folder to the site over a safe channel: client.key is the site's identity.\n"
        "There, fill in models and data in client.yaml and run: fedllm-client --config client.yaml");
    command->add_option("name", options->name, "name of the site, such as site-a")->required();
    command->add_option("--dir", *folder, "folder that 'fedllm init' made")->capture_default_str();
    command->add_option("--out", *out, "folder of the bundle (default: DIR/clients/NAME)");
    command->callback([options, folder, out, &chosen] {
        chosen.run = [options, folder, out, &chosen]() -> Result<void> {
            options->folder = *folder;
            options->out = *out;
            FEDLLM_TRY(const Path bundle, federation::invite_client(*options, SystemClock().now()));
            if (chosen.json) {
                std::printf("%s\n",
                            Json{{"name", options->name}, {"bundle", bundle.string()}}.dump(2).c_str());
            } else {
                std::printf(
                    "bundle for %s in %s\n  next, at the site: fill in models and data in client.yaml, then\n"
                    "        fedllm-client --config client.yaml\n",
                    options->name.c_str(), bundle.c_str());
            }
            return {};
        };
    });
}

void add_revoke(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<federation::RevokeOptions>();
    auto folder = std::make_shared<std::string>("hub"), certificate = std::make_shared<std::string>(),
         crl = std::make_shared<std::string>();
    auto* command = app.add_subcommand("revoke", "Take the certificates of a site or an operator back");
    command->footer(
        "A running server reads the list within seconds (tls.crl, tls.reload_every) and disconnects whom it "
        "names.\n"
        "'fedllm invite NAME --out FOLDER' lets the site in again, with a new key.");
    command->add_option("name", options->name, "name of the site or operator")->required();
    command->add_option("--dir", *folder, "folder that 'fedllm init' made")->capture_default_str();
    command->add_option("--certificate", *certificate,
                        "take only this certificate back, not all of the name");
    command->add_option("--crl", *crl,
                        "the list (default: DIR/crl.pem); copy it to where the server reads it");
    command->callback([options, folder, certificate, crl, &chosen] {
        chosen.run = [options, folder, certificate, crl, &chosen]() -> Result<void> {
            options->folder = *folder;
            options->certificate = *certificate;
            options->crl = *crl;
            FEDLLM_TRY(const auto revoked, federation::revoke_member(*options, SystemClock().now()));
            if (chosen.json) {
                const Json result{{"name", options->name},
                                  {"crl", revoked.crl.string()},
                                  {"certificates", revoked.certificates}};
                std::printf("%s\n", result.dump(2).c_str());
            } else {
                std::printf("%s: %zu certificate%s taken back\n  list: %s\n", options->name.c_str(),
                            revoked.certificates, revoked.certificates == 1 ? "" : "s", revoked.crl.c_str());
            }
            return {};
        };
    });
}

}  // namespace fedllm::tools::cli
