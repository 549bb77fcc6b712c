// fedllm: the command line of operators and engineers. See --help.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "common/base/version.hpp"
#include "tools/cli/commands.hpp"

int main(int argc, char** argv) {
    using namespace fedllm;
    CLI::App app(
        "Federated tuning of language models.\n\n"
        "A federation, from the beginning:\n"
        "  fedllm init --dir hub --host hub.example.org   then start fedllm-server\n"
        "  fedllm invite site-a --dir hub                 then start fedllm-client at the site\n"
        "  fedllm job submit JOB.yaml --model FOLDER --dir hub\n"
        "  fedllm job show j1 --follow --dir hub\n"
        "  fedllm export j1 --out adapter --dir hub",
        "fedllm");
    app.set_version_flag("--version", "fedllm " + std::string(kVersion));
    app.require_subcommand(1);
    app.fallthrough();
    tools::cli::Chosen chosen;
    app.add_flag("--json", chosen.json, "print results as JSON");
    tools::cli::add_init(app, chosen);
    tools::cli::add_invite(app, chosen);
    tools::cli::add_revoke(app, chosen);
    tools::cli::add_job(app, chosen);
    tools::cli::add_why(app, chosen);
    tools::cli::add_audit(app, chosen);
    tools::cli::add_export(app, chosen);
    tools::cli::add_train(app, chosen);
    tools::cli::add_eval(app, chosen);
    tools::cli::add_generate(app, chosen);
    tools::cli::add_pull(app, chosen);
    tools::cli::add_check(app, chosen);
    tools::cli::add_tokenizer(app, chosen);
    tools::cli::add_bench(app, chosen);
    tools::cli::add_config(app, chosen);
    CLI11_PARSE(app, argc, argv);
    if (auto done = chosen.run(); !done) {
        std::fprintf(stderr, "fedllm: %s\n", to_string(done.error()).c_str());
        return 1;
    }
    return 0;
}
