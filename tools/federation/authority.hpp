// The federation's own certificate authority, in a folder: what `fedllm init` makes and `fedllm invite` uses.
//
//   ca.crt ca.key             the authority; ca.key signs, keep it off the server if you can
//   crl.pem issued/           the certificates taken back by `fedllm revoke`; every one that `invite` issued
//   server.crt server.key server.yaml
//   operator.crt operator.key operator.yaml
//   clients/NAME/             one bundle per site: ca.crt client.crt client.key client.yaml
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/net/certificates.hpp"

namespace fedllm::tools::federation {

struct InitOptions {
    Path folder;
    std::vector<std::string>
        hosts;  // names and addresses of the server; the first is what clients connect to
    std::uint16_t port = 7443;
    std::uint16_t admin_port = 7480;
    std::chrono::days days{825};
};

// AlreadyExists when the folder holds an authority: a second one would lock every invited site out.
Result<void> init_federation(const InitOptions& options, Timestamp now);

struct InviteOptions {
    Path folder;       // that init_federation filled
    std::string name;  // of the site; becomes its identity
    Path out;          // empty: <folder>/clients/<name>
    std::chrono::days days{397};
};

// Returns the bundle's folder.
Result<Path> invite_client(const InviteOptions& options, Timestamp now);

// ca.crt and ca.key. PermissionDenied when others can read the key: whoever has it can let anyone in.
Result<net::Credentials> read_authority(const Path& folder);

}  // namespace fedllm::tools::federation
