#include "tools/federation/revocation.hpp"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "common/net/certificates.hpp"
#include "common/net/revocation.hpp"
#include "tools/federation/authority.hpp"

namespace fedllm::tools::federation {
namespace {

namespace fs = std::filesystem;

// Where certificates of members may lie: the record of all, and, for federations from before it was kept, the
// bundles.
std::vector<Path> candidates(const RevokeOptions& options) {
    if (!options.certificate.empty()) return {options.certificate};
    std::vector<Path> files;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(options.folder / "issued", none)) {
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    files.push_back(options.folder / "clients" / options.name / "client.crt");
    files.push_back(options.folder / "operator.crt");
    std::erase_if(files, [](const Path& file) { return !fs::exists(file); });
    return files;
}

Result<std::vector<std::string>> certificates_of(const RevokeOptions& options) {
    std::vector<std::string> pems;
    for (const Path& file : candidates(options)) {
        FEDLLM_TRY(const std::string pem, read_file(file, std::size_t{1} << 20));
        const auto facts = net::read_certificate(pem);
        if (!facts) return with_context(facts.error(), file.string());
        if (facts->identity.name.get() != options.name) continue;
        if (facts->identity.role == net::Role::Server) {
            return make_error(Errc::InvalidArgument,
                              file.string() +
                                  ": a server's certificate cannot be taken back, for clients read no "
                                  "list; give the server another one, and clients another tls.ca");
        }
        pems.push_back(pem);
    }
    if (!pems.empty()) return pems;
    return make_error(Errc::NotFound,
                      (options.certificate.empty() ? options.folder : options.certificate).string() +
                          ": no certificate of '" + options.name +
                          "' here; 'fedllm revoke NAME --certificate FILE' names one");
}

}  // namespace

Result<Revoked> revoke_member(const RevokeOptions& options, Timestamp now) {
    FEDLLM_TRY_VOID(net::check_peer_name(options.name));
    FEDLLM_TRY(const auto authority, read_authority(options.folder));
    FEDLLM_TRY(const auto pems, certificates_of(options));
    const Path file = options.crl.empty() ? options.folder / "crl.pem" : options.crl;
    std::string so_far;
    if (fs::exists(file)) {
        FEDLLM_TRY(so_far, read_file(file));
    }
    auto revocation = net::revoke(authority, so_far, pems, now);
    if (!revocation) return with_context(revocation.error(), file.string());
    FEDLLM_TRY_VOID(write_file_atomically(file, revocation->crl_pem));
    return Revoked{file, revocation->added};
}

}  // namespace fedllm::tools::federation
