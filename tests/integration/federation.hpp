// A federation of one real server process, in a folder of its own, that a test can kill and start again; and
// peers that speak the protocol from inside the test, truthfully or not.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/net/certificates.hpp"
#include "common/net/channel.hpp"
#include "common/net/connect.hpp"
#include "common/tensor/param_set.hpp"
#include "server/app/server_config.hpp"
#include "tests/support/temp_dir.hpp"
#include "tools/federation/operator_link.hpp"

namespace fedllm::test {

namespace asio = boost::asio;
using net::awaitable;

// How long a test waits for what comes at once on a machine with nothing else to do. Only a test that fails
// sits it out.
inline constexpr Duration kPatience = std::chrono::seconds(60);

// The shadow memory of a sanitizer is none of the server's: bounds of its size hold without one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kMemoryIsItsOwn = false;
#else
inline constexpr bool kMemoryIsItsOwn = true;
#endif

// Lifecycle: the constructor makes the authority; start() returns when the server serves; the destructor
// leaves no process behind. Concurrency: one thread; every call blocks.
class Federation {
public:
    Federation();
    ~Federation();
    Federation(const Federation&) = delete;
    Federation& operator=(const Federation&) = delete;

    // Before start(): changes server.yaml.
    void configure(const std::function<void(server::app::ServerConfig&)>& change);
    void start();
    void kill();           // SIGKILL
    void hang_up() const;  // SIGHUP
    int terminate();       // SIGTERM; the exit status, or -1 when it does not end

    net::TlsFiles invite(const std::string& name);
    Result<std::unique_ptr<tools::federation::OperatorLink>> operator_link() const;

    std::string get(const std::string& path) const;  // of the admin page, headers included
    // One sample, by name and labels as the page writes them; 0 while there is none.
    double metric(const std::string& series) const;
    // The same, once it is `least`, or else after some patience: a peer may see an event before it is
    // counted.
    double metric_from(const std::string& series, double least) const;
    std::string log() const;
    bool log_has(const std::string& text, Duration patience = kPatience) const;

    const Path& folder() const { return hub_; }
    std::uint16_t port() const { return port_; }
    pid_t process() const { return server_; }

private:
    bool ended(Duration patience, int& status);

    TempDir root_;
    Path hub_;
    std::uint16_t port_ = 0;
    std::uint16_t admin_port_ = 0;
    pid_t server_ = -1;
};

// A LoRA job over one projection: so small that rounds take milliseconds and no model is needed.
struct TinyJob {
    std::uint32_t clients = 2;
    std::uint32_t minimum = 2;
    std::uint32_t rounds = 2;
    std::string download_codec = "none";

    static constexpr double kClipNorm = 4;
    static constexpr std::uint64_t kSamplesMax = 100;
    static tensor::Manifest manifest();
    std::string yaml() const;
    void submit(Federation& federation) const;
};

// A truthful update of TinyJob: depends on the client and the task alone, as a real one does.
std::vector<float> honest_values(const std::string& task);
std::vector<std::byte> encoded(const std::vector<float>& values);
protocol::Offer truthful_offer(const std::string& task, const std::vector<std::byte>& update);

// One connection in a client's role. It keeps no rules: tests break them through it. The loop it runs in
// outlives it.
class Peer {
public:
    explicit Peer(net::TlsFiles files) : files_(std::move(files)) {}

    // Up to Welcome. `codecs`: what it says it can decode.
    awaitable<Result<void>> connect(std::uint16_t port, std::vector<std::string> codecs = {});
    // The answer to a Fetch: `bytes` bytes from the first on; other messages meanwhile are left out.
    awaitable<Result<std::vector<std::byte>>> fetch(std::string task, std::string digest,
                                                    std::uint64_t bytes);
    awaitable<Result<protocol::ServerMessage>> next();  // pings and chunks left out
    awaitable<Result<void>> send(protocol::ClientMessage message);
    awaitable<Result<void>> send(protocol::Offer offer);
    awaitable<Result<void>> send_bytes(std::uint64_t offset, std::span<const std::byte> bytes);
    void close();

private:
    net::TlsFiles files_;
    std::unique_ptr<net::Channel> channel_;
};

// Runs one coroutine to its end and hands back what it came to.
class Loop {
public:
    template <class T>
    Result<T> run(awaitable<Result<T>> work) {
        std::optional<Result<T>> result;
        asio::co_spawn(io_, net::as_optional(net::within(2 * kPatience, std::move(work))),
                       [&](std::exception_ptr thrown, std::optional<Result<T>> done) {
                           if (thrown) std::rethrow_exception(thrown);
                           result = std::move(done);
                       });
        io_.restart();
        while (!result && io_.run_one() > 0) {
        }
        return std::move(*result);
    }
    asio::io_context& context() { return io_; }

private:
    asio::io_context io_{1};
};

}  // namespace fedllm::test
