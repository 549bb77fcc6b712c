// fedllm bench: what this machine can do.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "common/config/value.hpp"
#include "tools/bench/exchange.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"

namespace fedllm::tools::cli {
namespace {

void print(const bench::ExchangeOptions& options, const bench::ExchangeReport& report, bool json) {
    const double gigabytes = 1e-9 * static_cast<double>(report.bytes_per_round);
    const double model = static_cast<double>(options.bytes);
    const double worst = *std::max_element(report.round_seconds.begin(), report.round_seconds.end());
    if (json) {
        const Json document{{"bytes", options.bytes},
                            {"clients", options.clients},
                            {"round_seconds", report.round_seconds},
                            {"bytes_per_round", report.bytes_per_round},
                            {"bare_tls_seconds", report.bare_seconds},
                            {"of_bare_tls", worst / report.bare_seconds},
                            {"bare_tls_core_seconds", report.bare_core_seconds},
                            {"server_core_seconds", report.server_core_seconds},
                            {"client_core_seconds", report.client_core_seconds},
                            {"server_resident_peak", report.server_resident_peak},
                            {"server_anonymous_peak", report.server_anonymous_peak}};
        std::printf("%s\n", document.dump(2).c_str());
        return;
    }
    std::vector<std::vector<std::string>> rows;
    for (std::size_t i = 0; i < report.round_seconds.size(); ++i) {
        const double seconds = report.round_seconds[i];
        rows.push_back({std::to_string(i + 1), fixed(seconds, 2), fixed(gigabytes, 2),
                        fixed(gigabytes / seconds, 2), fixed(seconds / report.bare_seconds, 2)});
    }
    rows.push_back({"bare TLS", fixed(report.bare_seconds, 2), fixed(gigabytes, 2),
                    fixed(gigabytes / report.bare_seconds, 2), "1.00"});
    std::printf("%s\nprocessor time of a round: server %s s, clients %s s; of bare TLS, both sides: %s s\n",
                table({"round", "seconds", "GB", "GB/s", "times bare TLS"}, rows).c_str(),
                fixed(report.server_core_seconds, 2).c_str(), fixed(report.client_core_seconds, 2).c_str(),
                fixed(report.bare_core_seconds, 2).c_str());
    std::printf("server's memory at its peak: %s resident (%s models), %s of it anonymous (%s models)\n",
                config::print_byte_count({report.server_resident_peak}).c_str(),
                fixed(static_cast<double>(report.server_resident_peak) / model, 2).c_str(),
                config::print_byte_count({report.server_anonymous_peak}).c_str(),
                fixed(static_cast<double>(report.server_anonymous_peak) / model, 2).c_str());
}

}  // namespace

void add_bench(CLI::App& app, Chosen& chosen) {
    auto* command = app.add_subcommand("bench", "Measure this machine");
    command->require_subcommand(1);
    auto options = std::make_shared<bench::ExchangeOptions>();
    auto bytes = std::make_shared<std::string>("256 MB");
    auto folder = std::make_shared<std::string>(".");
    auto* exchange =
        command->add_subcommand("exchange", "Rounds without training: what moving the bytes takes");
    exchange->footer(
        "A real server in a process of its own and the clients' real connections, over TLS on loopback: "
        "every\n"
        "client fetches the whole version, checks its digest, and sends as many bytes back; the server "
        "checks,\n"
        "keeps, adds and answers as it always does. Beside it, the same bytes over a bare TLS stream.");
    exchange->add_option("--bytes", *bytes, "of the model and of each update: 3.35GB, 64 MiB")
        ->capture_default_str();
    exchange->add_option("--clients", options->clients, "that take part in every round")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    exchange->add_option("--rounds", options->rounds, "to time")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    exchange->add_option("--threads", options->threads, "of the server's pool; 0: one per core")
        ->capture_default_str();
    exchange->add_option("--dir", *folder, "where the server's state lies meanwhile")->capture_default_str();
    exchange->callback([=, &chosen] {
        chosen.run = [=, &chosen]() -> Result<void> {
            FEDLLM_TRY(const auto size, config::parse_byte_count(*bytes));
            options->bytes = size.bytes;
            options->folder = *folder;
            const auto say = [](const std::string& doing) {
                std::fprintf(stderr, "%s ...\n", doing.c_str());
            };
            FEDLLM_TRY(const auto report, bench::run_exchange(*options, say));
            print(*options, report, chosen.json);
            return {};
        };
    });
}

}  // namespace fedllm::tools::cli
