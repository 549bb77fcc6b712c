// fedllm tokenizer, config: small things that need neither a model nor a federation.
#include <cstdio>
#include <memory>

#include "client/agent/client_config.hpp"
#include "client/data/bpe_trainer.hpp"
#include "client/data/row.hpp"
#include "server/app/server_config.hpp"
#include "tools/cli/commands.hpp"
#include "tools/cli/output.hpp"

namespace fedllm::tools::cli {
namespace {

Result<void> train_tokenizer(const std::vector<std::string>& files, std::size_t vocab,
                             const std::string& out) {
    std::vector<std::string> texts;
    for (const std::string& file : files) {
        FEDLLM_TRY(const std::string content, read_file(file, std::size_t{1} << 30));
        std::size_t number = 0;
        for (std::size_t start = 0; start < content.size();) {
            const std::size_t end = std::min(content.find('\n', start), content.size());
            const std::string_view line(content.data() + start, end - start);
            start = end + 1;
            ++number;
            if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
            FEDLLM_TRY(auto row, client::data::parse_row(line, file + ":" + std::to_string(number)));
            for (auto& segment : row.segments) texts.push_back(std::move(segment.text));
        }
    }
    FEDLLM_TRY(const std::string tokenizer, client::data::train_byte_level_bpe(texts, vocab, {}));
    FEDLLM_TRY_VOID(write_file_atomically(out, tokenizer));
    std::printf("%s: learned from %zu texts\n", out.c_str(), texts.size());
    return {};
}

}  // namespace

void add_tokenizer(CLI::App& app, Chosen& chosen) {
    auto files = std::make_shared<std::vector<std::string>>();
    auto vocab = std::make_shared<std::size_t>(4096);
    auto out = std::make_shared<std::string>();
    auto* command = app.add_subcommand("tokenizer", "Learn a byte-level BPE tokenizer.json from JSONL files");
    command->add_option("data", *files, "JSONL files")->required();
    command->add_option("--vocab", *vocab, "vocabulary size")->capture_default_str();
    command->add_option("--out", *out, "tokenizer.json to write")->required();
    command->callback([=, &chosen] { chosen.run = [=] { return train_tokenizer(*files, *vocab, *out); }; });
}

std::string configuration_reference() {
    return "<!-- Generated: fedllm config > configs/REFERENCE.md -->\n\n" +
           config::reference_page("server.yaml", server::app::server_table()) + "\n" +
           config::reference_page("client.yaml", client::agent::client_table()) + "\n" +
           config::reference_page("Job files", job::job_table());
}

void add_config(CLI::App& app, Chosen& chosen) {
    auto* command =
        app.add_subcommand("config", "Print the reference of every configuration key, as Markdown");
    command->callback([&chosen] {
        chosen.run = []() -> Result<void> {
            std::fputs(configuration_reference().c_str(), stdout);
            return {};
        };
    });
}

}  // namespace fedllm::tools::cli
