// Options that several commands share.
#pragma once

#include <CLI/CLI.hpp>

#include "common/tensor/base_spec.hpp"

namespace fedllm::tools::cli {

// --base-storage, which a job file says as base.storage.
CLI::Option* add_base_storage(CLI::App* command, tensor::BaseStorage& storage);

}  // namespace fedllm::tools::cli
