// The filters, tests, methods and functions that templates may use.
#pragma once

#include <chrono>
#include <cstddef>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.hpp"
#include "common/jinja/value.hpp"

namespace fedllm::jinja {

bool is_filter(std::string_view name);
bool is_test(std::string_view name);
bool is_function(std::string_view name);
std::string list_filters();  // for error messages
std::string list_tests();
std::string list_functions();

// What a rendering may still use up: templates come with downloaded models and are not trusted.
struct Budget {
    std::size_t steps = 5'000'000;               // expressions and statements that are evaluated
    std::size_t bytes = std::size_t{256} << 20;  // of text and containers that are made on the way

    Result<void> step(std::size_t count);
    Result<void> charge(std::size_t bytes);
};

struct Arguments {
    std::vector<Value> positional;
    std::vector<std::pair<std::string, Value>> named;

    // The argument at `position`, or called `name`; null where it is absent.
    const Value* find(std::size_t position, std::string_view name) const;
    // InvalidData where there are more or others than these names.
    Result<void> check(std::initializer_list<std::string_view> names) const;
};

struct Context {
    Budget& budget;
    const std::tm& now;
};

Result<Value> apply_filter(Context context, std::string_view name, const Value& value,
                           const Arguments& arguments);
Result<bool> apply_test(Context context, std::string_view name, const Value& value,
                        const Arguments& arguments);
Result<Value> call_method(Context context, const Value& receiver, std::string_view name,
                          const Arguments& arguments);
Result<Value> call_function(Context context, std::string_view name, const Arguments& arguments);

// receiver.name as a callable, where it is a method that is supported; an error where Python has one that is
// not.
Result<Value> find_method(const Value& receiver, std::string_view name);
bool has_method(const Value& receiver, std::string_view name);

// value.name and value[key] as Jinja looks them up; undefined where there is nothing.
Result<Value> attribute_of(const Value& value, std::string_view name);
Result<Value> item_of(const Value& value, const Value& key);
Result<bool> contains(Context context, const Value& container, const Value& item);
// What a loop over the value sees. A generator is marked as read.
Result<std::vector<Value>> items_of(Context context, const Value& value);

Result<std::string> to_json(const Value& value, const Arguments& arguments);
// Text in another case. Unsupported beyond ASCII: Python's rules need tables.
Result<std::string> to_lower(std::string_view text);
Result<std::string> to_upper(std::string_view text);
Result<std::string> capitalized(std::string_view text);
Result<std::int64_t> integer_argument(const Value& value, std::string_view what);

}  // namespace fedllm::jinja
