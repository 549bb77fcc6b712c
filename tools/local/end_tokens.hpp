// The tokens at which a model ends its text.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::tools::local {

// eos_token_id of generation_config.json and of config.json, each a number, a list or absent; every id once,
// ascending. InvalidModel, naming the file, for another form or an id that is not below `vocab`.
Result<std::vector<std::int32_t>> end_tokens(const Path& model_folder, std::size_t vocab);

}  // namespace fedllm::tools::local
