#include "tools/cli/options.hpp"

#include <map>
#include <string>

#include "common/job/job_spec.hpp"

namespace fedllm::tools::cli {

CLI::Option* add_base_storage(CLI::App* command, tensor::BaseStorage& storage) {
    std::map<std::string, tensor::BaseStorage> names;
    for (const auto& [value, name] : config::EnumNames<tensor::BaseStorage>::rows) names.emplace(name, value);
    return command
        ->add_option("--base-storage", storage,
                     "hold linear layers as_stored, or convert to bf16, int8, nf4 or fp4")
        ->transform(CLI::CheckedTransformer(names));
}

}  // namespace fedllm::tools::cli
