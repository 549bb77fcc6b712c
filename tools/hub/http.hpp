// HTTP GET over libcurl, with redirects followed by hand so that a token stays with the host it is for.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/base/result.hpp"

namespace fedllm::tools::hub {

struct HttpLimits {
    std::chrono::seconds connect{15};
    std::chrono::seconds stall{60};  // without a byte
    int redirects = 8;
};

struct HttpResponse {
    long status = 0;          // 0: no answer came
    std::uint64_t first = 0;  // of a 206: the offset of the first byte that follows
    std::uint64_t retry_after_s = 0;
    std::string reason;  // of an error: what the server says, cut
};

// Receives the body of a 200 or 206; an error ends the transfer and is what get() returns.
using HttpSink = std::function<Result<void>(const HttpResponse&, std::string_view)>;

// Lifecycle: unmovable; reuses connections between calls. Concurrency: one call at a time.
// Limits: http and https alone; https never leads to http; a token is sent only to the origin (scheme, host,
// port) of the first URL, and over http only to this very machine.
class HttpClient {
public:
    explicit HttpClient(HttpLimits limits = {});
    HttpClient(const HttpClient&) = delete;
    HttpClient& operator=(const HttpClient&) = delete;
    ~HttpClient();

    // Any status is an answer, not an error. Errors: Timeout, PeerClosed (no connection, or cut), Malformed
    // (redirects), PeerUntrusted (TLS), what the sink returned.
    Result<HttpResponse> get(const std::string& url, const std::string& token, std::uint64_t from,
                             const HttpSink& sink);

private:
    struct Handle;
    Result<HttpResponse> get_once(const std::string& url, const std::string& token, std::uint64_t from,
                                  const HttpSink& sink, std::string& location);

    HttpLimits limits_;
    std::unique_ptr<Handle> handle_;
};

}  // namespace fedllm::tools::hub
