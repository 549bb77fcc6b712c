// fedllm why: what is waited for, since when, and what happens next.
#include <cstdio>
#include <memory>

#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/federation/operator_link.hpp"

namespace fedllm::tools::cli {
namespace {

Result<void> why(const std::string& subject, const std::string& hub, bool json) {
    FEDLLM_TRY(const auto config, federation::load_operator_config(hub));
    FEDLLM_TRY(const auto link, federation::OperatorLink::connect(config));
    FEDLLM_TRY(const auto because, link->why(subject));
    if (json) {
        const Json answer{{"subject", subject},
                          {"sentence", because.sentence()},
                          {"reason", because.reason()},
                          {"since_ms", because.since_ms()}};
        std::printf("%s\n", answer.dump(2).c_str());
    } else {
        std::printf("%s\n", because.sentence().c_str());
    }
    return {};
}

}  // namespace

void add_why(CLI::App& app, Chosen& chosen) {
    auto subject = std::make_shared<std::string>();
    auto hub = std::make_shared<std::string>("hub");
    auto* command = app.add_subcommand("why", "Say what is waited for, since when, and what happens next");
    command->footer(
        "The same reason is the metric fedllm_job_waiting{job,reason} and a line in the server's log.");
    command->add_option("subject", *subject, "a job (j1), one of its rounds (j1/3), or a client (site-a)")
        ->required();
    command->add_option("--dir", *hub, "folder that 'fedllm init' made")->capture_default_str();
    command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return why(*subject, *hub, chosen.json); }; });
}

}  // namespace fedllm::tools::cli
