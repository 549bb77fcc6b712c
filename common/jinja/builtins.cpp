#include "common/jinja/builtins.hpp"

#include <algorithm>
#include <array>
#include <ctime>

namespace fedllm::jinja {

Result<void> Budget::step(std::size_t count) {
    if (count + 1 > steps) return make_error(Errc::TooLarge, "the template takes too many steps");
    steps -= count + 1;
    return {};
}

Result<void> Budget::charge(std::size_t wanted) {
    if (wanted > bytes) return make_error(Errc::TooLarge, "the template makes too much text");
    bytes -= wanted;
    return {};
}

const Value* Arguments::find(std::size_t position, std::string_view name) const {
    if (position < positional.size()) return &positional[position];
    const auto found =
        std::find_if(named.begin(), named.end(), [&](const auto& entry) { return entry.first == name; });
    return found == named.end() ? nullptr : &found->second;
}

Result<void> Arguments::check(std::initializer_list<std::string_view> names) const {
    if (positional.size() > names.size()) {
        return make_error(Errc::InvalidData, "expected at most " + std::to_string(names.size()) +
                                                 " arguments, found " + std::to_string(positional.size()));
    }
    for (const auto& [name, value] : named) {
        if (std::find(names.begin(), names.end(), name) == names.end()) {
            return make_error(Errc::Unsupported, "the argument '" + name + "' is not supported");
        }
    }
    return {};
}

Result<std::int64_t> integer_argument(const Value& value, std::string_view what) {
    const auto number = value.integer();
    if (!number)
        return make_error(Errc::InvalidData,
                          std::string(what) + " is " + value.type_name() + ", expected an integer");
    return *number;
}

// ------------------------------------------------------------------------------------------------------------------
// Functions

namespace {

constexpr std::array<std::string_view, 5> kFunctions{"range", "namespace", "dict", "raise_exception",
                                                     "strftime_now"};
constexpr std::int64_t kRangeMax = 100'000;

Result<Value> range(Context context, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"start", "stop", "step"}));
    std::int64_t numbers[3] = {0, 0, 1};
    const std::size_t count = arguments.positional.size();
    if (count == 0 || !arguments.named.empty())
        return make_error(Errc::InvalidData, "range takes one to three integers");
    for (std::size_t i = 0; i < count; ++i) {
        FEDLLM_TRY(numbers[count == 1 ? 1 : i],
                   integer_argument(arguments.positional[i], "an argument of range"));
    }
    const auto [start, stop, step] = std::to_array(numbers);
    if (step == 0) return make_error(Errc::InvalidData, "range with a step of zero");
    std::vector<Value> items;
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (items.size() >= static_cast<std::size_t>(kRangeMax)) {
            return make_error(Errc::TooLarge, "range has more than " + std::to_string(kRangeMax) + " items");
        }
        items.emplace_back(i);
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    FEDLLM_TRY_VOID(context.budget.charge(items.size() * sizeof(Value)));
    return make_sequence(std::move(items), SequenceKind::Range);
}

Result<Value> dict(const Arguments& arguments) {
    std::vector<std::pair<Value, Value>> entries;
    if (!arguments.positional.empty()) {
        const Mapping* mapping = arguments.positional[0].mapping();
        if (!mapping || arguments.positional.size() > 1) {
            return make_error(Errc::Unsupported, "dict of anything but a dict and names is not supported");
        }
        entries = mapping->entries;
    }
    for (const auto& [name, value] : arguments.named) entries.emplace_back(Value(name), value);
    return make_mapping(std::move(entries));
}

Result<Value> raise_exception(const Arguments& arguments) {
    std::string message;
    if (const Value* value = arguments.find(0, "message")) {
        FEDLLM_TRY(message, to_text(*value));
    }
    return make_error(Errc::InvalidData, "the template refuses this: " + message);
}

Result<Value> strftime_now(Context context, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"format"}));
    const Value* format = arguments.find(0, "format");
    if (!format || !format->text()) return make_error(Errc::InvalidData, "strftime_now takes a string");
    if (format->text()->empty()) return Value(std::string());
    char buffer[512];
    const std::size_t length = std::strftime(buffer, sizeof buffer, format->text()->c_str(), &context.now);
    if (length == 0)
        return make_error(Errc::InvalidData, "strftime_now: no text of this format, or too much");
    return Value(std::string(buffer, length));
}

}  // namespace

bool is_function(std::string_view name) {
    return std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
}

std::string list_functions() {
    std::string list;
    for (const auto name : kFunctions) list += (list.empty() ? "" : ", ") + std::string(name);
    return list;
}

Result<Value> call_function(Context context, std::string_view name, const Arguments& arguments) {
    if (name == "range") return range(context, arguments);
    if (name == "dict") return dict(arguments);
    if (name == "raise_exception") return raise_exception(arguments);
    return strftime_now(context, arguments);
}

}  // namespace fedllm::jinja
