// fedllm pull: a model from the Hugging Face hub.
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "common/base/text.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"
#include "tools/hub/pull.hpp"

namespace fedllm::tools::cli {
namespace {

struct PullCommand {
    std::string id, revision = "main";
    std::vector<std::string> include;
    bool quiet = false;
};

// A line for each file; on a terminal it is rewritten in place while the file comes.
class PullDisplay {
public:
    void show(const hub::PullProgress& progress) {
        const bool done = progress.bytes == progress.size;
        const auto percent = progress.size == 0 ? 100 : progress.bytes * 100 / progress.size;
        if (!done && (!isatty_ || percent == percent_)) return;
        percent_ = percent;
        std::fprintf(stderr, "%s%s  %s / %s  (all: %s / %s)%s", isatty_ ? "\r\033[K" : "",
                     progress.file.c_str(), format_bytes(progress.bytes).c_str(),
                     format_bytes(progress.size).c_str(), format_bytes(progress.bytes_all).c_str(),
                     format_bytes(progress.size_all).c_str(), done ? "\n" : "");
    }

private:
    bool isatty_ = ::isatty(2) == 1;
    std::uint64_t percent_ = 101;
};

Result<void> run_pull(const PullCommand& command, bool json) {
    FEDLLM_TRY(auto options, hub::options_from_environment());
    options.id = command.id;
    options.revision = command.revision;
    options.include = command.include;
    PullDisplay display;
    if (!command.quiet) options.progress = [&](const hub::PullProgress& progress) { display.show(progress); };
    FEDLLM_TRY(const auto pulled, hub::pull(options));
    if (json) {
        std::printf("%s\n", Json{{"model", command.id},
                                 {"snapshot", pulled.snapshot.string()},
                                 {"commit", pulled.commit},
                                 {"files", pulled.files},
                                 {"bytes_fetched", pulled.bytes_fetched}}
                                .dump(2)
                                .c_str());
    } else {
        std::printf("%s\n", pulled.snapshot.c_str());
    }
    return {};
}

}  // namespace

void add_pull(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<PullCommand>();
    auto* command =
        app.add_subcommand("pull", "Fetch a model from the Hugging Face hub into its usual cache");
    command->footer(
        "Then ORG/NAME may stand wherever a model folder is asked for. The cache is huggingface_hub's and\n"
        "transformers' (HF_HOME); HF_ENDPOINT names another hub, HF_TOKEN or HF_HOME/token a token.\n"
        "A transfer that was cut goes on where it was. Every file is checked against the hub's hash.");
    command->add_option("model", options->id, "ORG/NAME")->required();
    command->add_option("--revision", options->revision, "branch, tag or commit")->capture_default_str();
    command
        ->add_option("--include", options->include,
                     "only files that fit this glob; may be given several times (default: safetensors, "
                     "configuration, tokenizer)")
        ->allow_extra_args(false);
    command->add_flag("--quiet", options->quiet, "no progress lines");
    command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return run_pull(*options, chosen.json); }; });
}

}  // namespace fedllm::tools::cli
