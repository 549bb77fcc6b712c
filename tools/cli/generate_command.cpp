// fedllm generate: continues a text.
#include <cstdio>
#include <memory>

#include "common/base/clock.hpp"
#include "common/hub/cache.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/options.hpp"
#include "tools/cli/output.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::tools::cli {
namespace {

struct GenerateCommand {
    std::string model, adapter, prompt, system;
    std::vector<std::string> stops;
    client::train::GenerateOptions options;
    unsigned threads = 0;
    tensor::BaseSpec base;
    bool stream = false;
    bool chat = false;
};

Result<void> generate(const GenerateCommand& command, bool json) {
    FEDLLM_TRY(const Path model, fedllm::hub::find_model(command.model));
    FEDLLM_TRY(const auto workspace, local::Workspace::open(model, command.threads, command.base));
    FEDLLM_TRY(const auto what, workspace->load_adapter(command.adapter));
    const bool stream = command.stream && !json;
    const char* const before = command.chat ? "" : command.prompt.c_str();  // what stands before the answer
    if (stream) {
        std::fputs(before, stdout);
        std::fflush(stdout);
    }
    const auto show = [](std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
    };
    const double started = monotonic_seconds();
    const local::OnText on_text = stream ? local::OnText(show) : local::OnText();
    std::vector<std::int32_t> chat;
    if (command.chat) {
        FEDLLM_TRY(chat, workspace->chat_prompt(command.system, command.prompt));
    }
    FEDLLM_TRY(const auto made,
               command.chat
                   ? workspace->continue_tokens(what, chat, command.options, command.stops, on_text)
                   : workspace->generate(what, command.prompt, command.options, command.stops, on_text));
    const double seconds = monotonic_seconds() - started;
    if (json) {
        std::printf("%s\n", Json{{"prompt", command.prompt},
                                 {"text", made.text},
                                 {"tokens", made.tokens},
                                 {"ended", made.ended},
                                 {"seconds", seconds}}
                                .dump(2, ' ', false, Json::error_handler_t::replace)
                                .c_str());
    } else {
        std::printf("%s%s\n", stream ? "" : before, stream ? "" : made.text.c_str());
    }
    return {};
}

}  // namespace

void add_generate(CLI::App& app, Chosen& chosen) {
    auto options = std::make_shared<GenerateCommand>();
    auto* command = app.add_subcommand("generate", "Continue a text, of a model or with an adapter");
    command->add_option("--model", options->model, "base model: a folder, or ORG/NAME of the hub's cache")
        ->required();
    command->add_option("--adapter", options->adapter, "PEFT adapter folder (default: the model as it is)");
    command->add_option("--prompt", options->prompt, "the text to continue")->required();
    auto* chat = command->add_flag("--chat", options->chat,
                                   "the prompt is a user's message, for the model's chat template");
    command->add_option("--system", options->system, "a system message before it")->needs(chat);
    command->add_option("--tokens", options->options.new_tokens_max, "at most this many")
        ->capture_default_str();
    command->add_option("--temperature", options->options.temperature, "0: always the likeliest token")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 100.0));
    command->add_option("--top-k", options->options.top_k, "sample among the k likeliest; 0: all")
        ->capture_default_str();
    command
        ->add_option("--top-p", options->options.top_p,
                     "and among the likeliest that make up this share of the probability; 1: all")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0));
    command->add_option("--stop", options->stops, "end before this text; may be given several times")
        ->allow_extra_args(false);
    command->add_flag("--stream", options->stream, "print the text as it comes");
    command->add_option("--seed", options->options.seed, "of the sampling")->capture_default_str();
    command->add_option("--threads", options->threads, "0: one per core")->capture_default_str();
    add_base_storage(command, options->base.storage);
    command->callback(
        [=, &chosen] { chosen.run = [=, &chosen] { return generate(*options, chosen.json); }; });
}

}  // namespace fedllm::tools::cli
