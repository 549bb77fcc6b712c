#include "tools/bench/exchange.hpp"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <filesystem>
#include <memory>
#include <thread>

#include "common/base/clock.hpp"
#include "common/config/value.hpp"
#include "tools/bench/bare_tls.hpp"
#include "tools/bench/plain_job.hpp"

namespace fedllm::tools::bench {
namespace {

namespace asio = net::asio;

Result<void> check_room(const ExchangeOptions& options, const PlainJob& job) {
    const std::uint64_t needed = job.disk_bytes();
    std::error_code code;
    const auto space = std::filesystem::space(options.folder, code);
    if (code) return make_error(Errc::IoFailed, options.folder.string() + ": " + code.message());
    if (space.available > needed) return {};
    return make_error(Errc::InvalidArgument, options.folder.string() + ": has room for " +
                                                 config::print_byte_count({space.available}) +
                                                 ", the exchange writes " +
                                                 config::print_byte_count({needed}) +
                                                 "; choose a smaller --bytes, or another --dir");
}

// The clients, each on a thread of its own, as each has a machine of its own; and when each round began.
class Crowd {
public:
    Crowd(std::uint16_t port, ReadyUpdate update, std::vector<net::TlsContext> identities,
          std::uint32_t rounds)
        : began_(rounds + 1) {
        for (auto& identity : identities) {
            SiteOptions options{.port = port,
                                .update = update,
                                .download = true,
                                .on_task = [this](const protocol::Task& task) { note(task.round()); },
                                .on_proceed = {},
                                .on_verdict = {}};
            members_.push_back(std::make_unique<Member>(std::move(identity), std::move(options)));
        }
    }

    // Until the final evaluation is asked for.
    Result<std::vector<double>> run() {
        std::vector<std::thread> threads;
        for (const auto& member : members_) {
            asio::co_spawn(
                member->io, net::as_optional(member->site.run()),
                [&member = *member, this](std::exception_ptr thrown, std::optional<Result<void>> ended) {
                    if (thrown) std::rethrow_exception(thrown);
                    if (!*ended) {
                        asio::post(io_, [this, error = ended->error()] { failed_ = error; });
                    }
                    member.io.stop();
                });
            threads.emplace_back([&member = *member] { member.io.run(); });
        }
        const auto work = asio::make_work_guard(io_);
        while (!began_.back() && !failed_) io_.run_one();
        for (const auto& member : members_)
            asio::post(member->io, [&member = *member] { member.site.stop(); });
        for (auto& thread : threads) thread.join();
        if (failed_) return *failed_;
        std::vector<double> seconds;
        for (std::size_t i = 0; i + 1 < began_.size(); ++i) {
            seconds.push_back(*began_[i + 1] - *began_[i]);
        }
        return seconds;
    }

private:
    struct Member {
        Member(net::TlsContext identity, SiteOptions options)
            : site(std::move(identity), std::move(options)) {}
        asio::io_context io{1};
        Site site;
    };

    void note(std::uint32_t round) {
        asio::post(io_, [this, round, now = monotonic_seconds()] {
            if (round < began_.size() && !began_[round]) began_[round] = now;
        });
    }

    asio::io_context io_{1};                    // the members' threads report here
    std::vector<std::optional<double>> began_;  // of each round: its first Task
    std::optional<Error> failed_;
    std::vector<std::unique_ptr<Member>> members_;
};

Result<Cost> bare_cost(const ServerProcess& server, const net::TlsContext& client,
                       const ExchangeOptions& options) {
    const auto& tls = server.config().tls;
    FEDLLM_TRY(const auto context,
               net::make_server_context({.ca = tls.ca, .certificate = tls.certificate, .key = tls.key}));
    return time_bare_tls(
        context, client,
        {.connections = options.clients, .bytes_down = options.bytes, .bytes_up = options.bytes});
}

}  // namespace

Result<ExchangeReport> run_exchange(const ExchangeOptions& options, const Say& say) {
    const PlainJob job{.bytes = options.bytes, .clients = options.clients, .rounds = options.rounds};
    FEDLLM_TRY_VOID(check_room(options, job));
    FEDLLM_TRY(const ScratchFolder scratch, ScratchFolder::make(options.folder));
    FEDLLM_TRY(ServerProcess server, ServerProcess::make(scratch.path() / "hub"));
    server.config().threads = options.threads;
    FEDLLM_TRY_VOID(server.start());

    std::vector<net::TlsContext> identities;
    for (std::uint32_t i = 1; i <= options.clients; ++i) {
        FEDLLM_TRY(const auto files, server.invite("site-" + std::to_string(i)));
        FEDLLM_TRY(auto context, net::make_client_context(files));
        identities.push_back(std::move(context));
    }
    say("making the update");
    FEDLLM_TRY(const ReadyUpdate update, job.make_update(scratch.path() / "update"));
    say("timing one round's bytes over bare TLS");
    ExchangeReport report;
    FEDLLM_TRY(const Cost before, bare_cost(server, identities.front(), options));
    say("submitting the first version");
    FEDLLM_TRY([[maybe_unused]] const JobId id, job.submit(server));
    say(std::to_string(options.rounds) + " rounds");
    {
        const PeakWatch peak(server.process());
        Crowd crowd(server.port(), update, identities, options.rounds);
        const double server_before = core_seconds_of(server.process());
        const Stopwatch watch;
        FEDLLM_TRY(report.round_seconds, crowd.run());
        report.client_core_seconds = watch.cost().core_seconds / options.rounds;
        report.server_core_seconds = (core_seconds_of(server.process()) - server_before) / options.rounds;
        report.server_anonymous_peak = peak.anonymous();
        report.server_resident_peak = memory_of(server.process()).resident_peak;
    }
    server.kill();
    say("timing one round's bytes over bare TLS again");
    FEDLLM_TRY(const Cost after, bare_cost(server, identities.front(), options));
    report.bare_seconds = std::min(before.seconds, after.seconds);
    report.bare_core_seconds = std::min(before.core_seconds, after.core_seconds);
    report.bytes_per_round = 2 * options.clients * update.bytes;
    return report;
}

}  // namespace fedllm::tools::bench
