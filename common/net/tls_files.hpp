// A TLS context out of files that may be replaced while it is in use.
#pragma once

#include <functional>
#include <string>

#include "common/net/tls.hpp"

namespace fedllm::net {

// Lifecycle: open(), then refresh() whenever it suits; connections hold the context they began with.
// Concurrency: one thread.
class ReloadingTls {
public:
    using Make = Result<TlsContext> (*)(const TlsFiles&);

    static Result<ReloadingTls> open(TlsFiles files, Make make);  // make_server_context, say

    const TlsContext& context() const { return context_; }
    const TlsFiles& files() const { return files_; }

    enum class Look { IfChanged, Always };
    // Whether there is a new context. An error leaves the old one in use, and comes once for each change:
    // files that are half copied must not lock anybody out, or let anybody in.
    Result<bool> refresh(Look look = Look::IfChanged);

private:
    ReloadingTls(TlsFiles files, Make make) : files_(std::move(files)), make_(make) {}

    TlsFiles files_;
    Make make_;
    std::string stamp_;  // of the files that were last read, well or not
    TlsContext context_;
};

}  // namespace fedllm::net
