#include "tools/bench/exchange.hpp"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <cmath>
#include <filesystem>
#include <memory>
#include <thread>

#include "common/base/clock.hpp"
#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"
#include "common/config/value.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/param_set_file.hpp"
#include "tools/bench/bare_tls.hpp"
#include "tools/bench/server_process.hpp"
#include "tools/bench/site.hpp"

namespace fedllm::tools::bench {
namespace {

namespace asio = net::asio;

constexpr std::uint64_t kTensorElements = std::uint64_t{1} << 24;  // 64 MiB each: layers of a large model
constexpr double kNorm = 4;                                        // of an update; the job clips at 10

std::string job_yaml(const ExchangeOptions& options) {
    const std::string clients = std::to_string(options.clients);
    return "name: exchange\nbase_model: none\nmethod: full\nrounds: " + std::to_string(options.rounds) +
           "\nclients_per_round: " + clients + "\nclients_minimum: " + clients +
           "\nupdate: {codec: none}\ndownload: {codec: none}\ntrain: {local_steps: 1}\n";
}

Result<tensor::Manifest> manifest_of(std::uint64_t bytes) {
    std::vector<tensor::TensorSpec> tensors;
    for (std::uint64_t left = std::max<std::uint64_t>(bytes / sizeof(float), 1); left > 0;) {
        const std::uint64_t elements = std::min(left, kTensorElements);
        tensors.push_back({"bench.layers." + std::to_string(tensors.size()) + ".weight", {elements}});
        left -= elements;
    }
    return tensor::Manifest::create(std::move(tensors));
}

Result<void> check_room(const ExchangeOptions& options) {
    // The spool holds one update of each client; the initial version twice; each round a version and its
    // export.
    const std::uint64_t needed = options.bytes * (options.clients + 3 + 2 * std::uint64_t{options.rounds});
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

// Values of a plausible size, from a block that repeats: drawing gigabytes would take longer than moving
// them.
Result<ReadyUpdate> make_update(const Path& file, std::uint64_t elements) {
    Rng rng(1, "bench/exchange");
    const auto bound = static_cast<float>(kNorm * std::sqrt(3.0 / static_cast<double>(elements)));
    std::vector<float> block(std::min<std::uint64_t>(elements, 1 << 20));
    for (float& value : block) value = rng.uniform(-bound, bound);
    std::vector<float> values(elements);
    for (std::uint64_t at = 0; at < elements; at += block.size()) {
        std::copy_n(block.begin(), std::min<std::uint64_t>(block.size(), elements - at), values.begin() + at);
    }
    FEDLLM_TRY(const auto encoded, codec::encode({}, {{{elements, 0}}, elements, 1}, values, 0));
    values = {};
    FEDLLM_TRY_VOID(write_file_atomically(file, encoded));
    return ReadyUpdate{file, crypto::to_hex(crypto::sha256(encoded)), encoded.size()};
}

Result<void> submit(const ServerProcess& server, const ExchangeOptions& options,
                    const tensor::Manifest& manifest) {
    const Path file = server.folder() / "initial.safetensors";
    FEDLLM_TRY_VOID(formats::write_param_set(file, tensor::ParamSet(manifest)));
    {
        FEDLLM_TRY(const MappedFile initial, MappedFile::open(file));
        FEDLLM_TRY(const auto link, server.operator_link());
        FEDLLM_TRY([[maybe_unused]] const JobId job, link->submit(job_yaml(options), initial.bytes()));
    }
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
    return {};
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
    FEDLLM_TRY_VOID(check_room(options));
    FEDLLM_TRY(const tensor::Manifest manifest, manifest_of(options.bytes));
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
    FEDLLM_TRY(const ReadyUpdate update, make_update(scratch.path() / "update", manifest.elements()));
    say("timing one round's bytes over bare TLS");
    ExchangeReport report;
    FEDLLM_TRY(const Cost before, bare_cost(server, identities.front(), options));
    say("submitting the first version");
    FEDLLM_TRY_VOID(submit(server, options, manifest));
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
