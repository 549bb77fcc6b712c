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

CLI::Option* add_device(CLI::App* command, client::train::Device& device) {
    std::map<std::string, client::train::Device> names;
    for (const auto& [value, name] : config::EnumNames<client::train::Device>::rows)
        names.emplace(name, value);
    return command
        ->add_option("--device", device,
                     "auto: the GPU where there is one that can, else the CPU; or cpu, cuda")
        ->transform(CLI::CheckedTransformer(names))
        ->default_str("auto");
}

}  // namespace fedllm::tools::cli
