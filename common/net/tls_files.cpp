#include "common/net/tls_files.hpp"

#include <sys/stat.h>

namespace fedllm::net {
namespace {

// Changes whenever one of the files does; coming and going are changes too.
std::string stamp_of(const TlsFiles& files) {
    std::string stamp;
    const auto add = [&stamp](const Path& path) {
        struct stat facts {};
        if (::stat(path.c_str(), &facts) == 0) {
            stamp += std::to_string(facts.st_ino) + ":" + std::to_string(facts.st_size) + ":" +
                     std::to_string(facts.st_mtim.tv_sec) + "." + std::to_string(facts.st_mtim.tv_nsec);
        }
        stamp += ";";
    };
    for (const Path* const path : {&files.ca, &files.certificate, &files.key}) add(*path);
    if (files.crl) add(*files.crl);
    return stamp;
}

}  // namespace

Result<ReloadingTls> ReloadingTls::open(TlsFiles files, Make make) {
    ReloadingTls tls(std::move(files), make);
    FEDLLM_TRY_VOID(tls.refresh(Look::Always));
    return tls;
}

Result<bool> ReloadingTls::refresh(Look look) {
    std::string stamp = stamp_of(files_);  // before they are read: what changes meanwhile is read again
    if (look == Look::IfChanged && stamp == stamp_) return false;
    stamp_ = std::move(stamp);
    FEDLLM_TRY(context_, make_(files_));
    return true;
}

}  // namespace fedllm::net
