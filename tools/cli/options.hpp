// Options that several commands share.
#pragma once

#include <CLI/CLI.hpp>

#include "client/train/device.hpp"
#include "common/tensor/base_spec.hpp"

namespace fedllm::tools::cli {

// --device auto, cpu or cuda.
CLI::Option* add_device(CLI::App* command, client::train::Device& device);

// --base-storage, which a job file says as base.storage.
CLI::Option* add_base_storage(CLI::App* command, tensor::BaseStorage& storage);

}  // namespace fedllm::tools::cli
