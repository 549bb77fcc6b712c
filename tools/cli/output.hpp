// How commands print: tables for people, one JSON document with --json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace fedllm::tools::cli {

using Json = nlohmann::ordered_json;

// Columns are padded to their widest cell; cells that look like numbers are set to the right.
std::string table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);

std::string fixed(double value, int digits);  // "-" for NaN
Json number(double value);                    // null for NaN: JSON has none

}  // namespace fedllm::tools::cli
