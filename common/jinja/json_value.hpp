// JSON to template values, the order of keys kept.
#pragma once

#include <nlohmann/json.hpp>

#include "common/base/result.hpp"
#include "common/jinja/value.hpp"

namespace fedllm::jinja {

Result<Value> from_json(const nlohmann::ordered_json& json);

}  // namespace fedllm::jinja
