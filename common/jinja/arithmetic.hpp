// Operators on values, as Python has them.
#pragma once

#include <string_view>

#include "common/base/result.hpp"
#include "common/jinja/builtins.hpp"
#include "common/jinja/value.hpp"

namespace fedllm::jinja {

Result<Value> calculate(Context context, std::string_view op, const Value& left,
                        const Value& right);  // + - * / // %
Result<Value> negate(const Value& value);
Result<bool> relation(Context context, std::string_view op, const Value& left,
                      const Value& right);  // == < in ...
Result<Value> slice_of(const Value& value, const Value& begin, const Value& end,
                       const Value& step);  // none: absent

}  // namespace fedllm::jinja
