#include "tools/cli/options.hpp"

#include <string>

#include "common/job/job_spec.hpp"

namespace fedllm::tools::cli {
namespace {

// Takes the names that E has in files, and says them in help and refusals.
template <class E>
CLI::Option* add_enum(CLI::App* command, const std::string& flag, E& value, const std::string& help) {
    std::string names;
    for (const auto& [ignored, name] : config::EnumNames<E>::rows) {
        names += (names.empty() ? "" : ", ") + std::string(name);
    }
    const auto read = [&value, flag, names](const CLI::results_t& given) {
        for (const auto& [candidate, name] : config::EnumNames<E>::rows) {
            if (given.front() != name) continue;
            value = candidate;
            return true;
        }
        throw CLI::ValidationError(flag + ": '" + given.front() + "' is not one of " + names);
    };
    return command->add_option(flag, read, help)->type_name("NAME");
}

}  // namespace

CLI::Option* add_base_storage(CLI::App* command, tensor::BaseStorage& storage) {
    return add_enum(command, "--base-storage", storage,
                    "hold linear layers as_stored, or convert to bf16, int8, nf4 or fp4");
}

CLI::Option* add_device(CLI::App* command, client::train::Device& device) {
    return add_enum(command, "--device", device,
                    "auto: the GPU where there is one that can, else the CPU; or cpu, cuda")
        ->default_str("auto");
}

}  // namespace fedllm::tools::cli
