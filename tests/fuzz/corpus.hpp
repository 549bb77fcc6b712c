// The committed seeds of a target: what libFuzzer found worth keeping, and what once broke something.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "common/base/files.hpp"

namespace fedllm::fuzz {

inline std::vector<std::string> corpus(const std::string& target) {
    std::vector<Path> files;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("tests/fuzz/corpus/" + target, none)) {
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    std::vector<std::string> seeds;
    for (const Path& file : files) seeds.push_back(read_file(file).value());
    FEDLLM_CHECK(!seeds.empty(), "each target has seeds, found from the repository's root");
    return seeds;
}

}  // namespace fedllm::fuzz
