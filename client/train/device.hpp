// What a user wants to train on, as files and options say it.
#pragma once

#include <utility>

#include "common/config/value.hpp"

namespace fedllm::client::train {

// Auto: the GPU for every job that it can train, else the CPU. Cuda: the GPU or an error.
enum class Device { Auto, Cpu, Cuda };

}  // namespace fedllm::client::train

template <>
struct fedllm::config::EnumNames<fedllm::client::train::Device> {
    static constexpr std::pair<fedllm::client::train::Device, const char*> rows[] = {
        {fedllm::client::train::Device::Auto, "auto"},
        {fedllm::client::train::Device::Cpu, "cpu"},
        {fedllm::client::train::Device::Cuda, "cuda"}};
};
