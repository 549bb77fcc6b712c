// A loop that runs test coroutines to their end, certificates on disk, and connected pairs of streams.
#pragma once

#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/net/certificates.hpp"
#include "common/net/connect.hpp"
#include "common/net/tls.hpp"

namespace fedllm::net {

using namespace std::chrono_literals;

// Runs `task` and everything it leaves behind; fails the test instead of hanging.
inline void run(asio::io_context& context, awaitable<void> task) {
    bool done = false;
    asio::co_spawn(context, std::move(task), [&](std::exception_ptr thrown) {
        done = true;
        if (!thrown) return;
        try {
            std::rethrow_exception(thrown);
        } catch (const std::exception& error) {
            ADD_FAILURE() << "the test's coroutine threw: " << error.what();
        }
    });
    context.restart();
    context.run_for(60s);
    ASSERT_TRUE(done) << "the test's coroutine hangs";
}

// Starts `task` beside the caller; `on_end` gets its value.
template <class T>
void start(asio::any_io_executor executor, awaitable<Result<T>> task, std::optional<Result<T>>& out) {
    asio::co_spawn(
        executor, as_optional(std::move(task)), [&out](std::exception_ptr, std::optional<Result<T>> result) {
            out = result ? std::move(result) : std::optional<Result<T>>(make_error(Errc::Internal, "threw"));
        });
}

// Lets what is ready run; the loop has one thread.
template <class Done>
awaitable<void> until(Done done) {
    for (int i = 0; i < 5000 && !done(); ++i) (void)co_await sleep_for(1ms);
    EXPECT_TRUE(done()) << "waited in vain";
}

// The first words of a client that would be let in: its ClientHello, as they cross the wire.
inline std::vector<std::byte> client_hello(const TlsContext& context) {
    SSL* const ssl = SSL_new(context->native_handle());
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl);
    SSL_do_handshake(ssl);
    std::vector<std::byte> hello(BIO_ctrl_pending(SSL_get_wbio(ssl)));
    BIO_read(SSL_get_wbio(ssl), hello.data(), static_cast<int>(hello.size()));
    SSL_free(ssl);
    return hello;
}

class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "fedllm-net-XXXXXX").string();
        path_ = ::mkdtemp(pattern.data());
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    const Path& path() const { return path_; }

private:
    Path path_;
};

// An authority and what it signs, as files.
class TestAuthority {
public:
    explicit TestAuthority(const Path& folder) : folder_(folder) {
        std::filesystem::create_directories(folder_);
        credentials_ = create_authority("test federation", valid()).value();
        write_file_atomically(folder_ / "ca.pem", credentials_.certificate_pem).value();
    }

    static Validity valid() { return valid_for(SystemClock().now(), std::chrono::days(2)); }
    static Validity expired() {
        const Timestamp now = SystemClock().now();
        return {now - std::chrono::days(9), now - std::chrono::days(2)};
    }

    TlsFiles issue(Role role, const std::string& name, const Validity& validity = valid(),
                   const std::string& address = "127.0.0.1") {
        CertificateRequest request{
            .role = role, .name = name, .dns_names = {}, .addresses = {}, .validity = validity};
        if (role == Role::Server) {
            request.dns_names = {"localhost"};
            request.addresses = {address};
        }
        const Credentials made = issue_certificate(credentials_, request).value();
        const TlsFiles files{folder_ / "ca.pem", folder_ / (name + ".pem"), folder_ / (name + ".key")};
        write_file_atomically(files.certificate, made.certificate_pem).value();
        write_file_atomically(files.key, made.key_pem, FileMode::Secret).value();
        return files;
    }

    const Credentials& credentials() const { return credentials_; }

private:
    Path folder_;
    Credentials credentials_;
};

// Both ends of one handshake over real loopback sockets.
struct Handshakes {
    std::optional<Result<Connected>> server;
    std::optional<Result<Connected>> client;
};

inline awaitable<Result<Connected>> accept_one(asio::ip::tcp::acceptor& acceptor, TlsContext context,
                                               Duration deadline = 10s, asio::any_io_executor helpers = {}) {
    auto [ec, socket] = co_await acceptor.async_accept(kNoThrow);
    if (ec) co_return make_error(Errc::IoFailed, ec.message());
    co_return co_await accept_tls(std::move(socket), std::move(context), deadline, std::move(helpers));
}

inline awaitable<void> shake_hands(TlsContext server, TlsContext client, Handshakes& out,
                                   std::string server_name = "localhost",
                                   asio::any_io_executor helpers = {}) {
    const auto executor = co_await asio::this_coro::executor;
    auto acceptor = listen_tcp(executor, "127.0.0.1", 0).value();
    const auto port = acceptor.local_endpoint().port();
    start(executor, accept_one(acceptor, std::move(server), 10s, std::move(helpers)), out.server);
    out.client = co_await connect_tls("127.0.0.1", port, std::move(client), std::move(server_name), 10s);
    co_await until([&] { return out.server.has_value(); });
}

}  // namespace fedllm::net
