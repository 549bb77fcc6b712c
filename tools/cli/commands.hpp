// The commands of `fedllm`. Each function adds one with its options and help; when chosen on the command
// line, it puts what is to be done into `chosen`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "common/base/result.hpp"

namespace fedllm::tools::cli {

struct Chosen {
    bool json = false;
    std::function<Result<void>()> run;
};

void add_init(CLI::App& app, Chosen& chosen);
void add_invite(CLI::App& app, Chosen& chosen);
void add_revoke(CLI::App& app, Chosen& chosen);
void add_job(CLI::App& app, Chosen& chosen);
void add_why(CLI::App& app, Chosen& chosen);
void add_audit(CLI::App& app, Chosen& chosen);
void add_export(CLI::App& app, Chosen& chosen);
void add_train(CLI::App& app, Chosen& chosen);
void add_eval(CLI::App& app, Chosen& chosen);
void add_generate(CLI::App& app, Chosen& chosen);
void add_pull(CLI::App& app, Chosen& chosen);
void add_check(CLI::App& app, Chosen& chosen);
void add_tokenizer(CLI::App& app, Chosen& chosen);
void add_bench(CLI::App& app, Chosen& chosen);
void add_config(CLI::App& app, Chosen& chosen);

std::string configuration_reference();  // configs/REFERENCE.md

}  // namespace fedllm::tools::cli
