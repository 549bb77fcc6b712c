// The filters that make one value of one value. Those that go through lists are in list_filters.cpp.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "common/jinja/builtins.hpp"
#include "common/jinja/list_filters.hpp"

namespace fedllm::jinja {
namespace {

using Filter = Result<Value> (*)(Context, const Value&, const Arguments&);

struct Entry {
    std::string_view name;
    Filter apply;
};

Result<std::string> ascii_only(std::string_view text, const char* what) {
    if (std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; })) {
        return make_error(Errc::Unsupported, std::string(what) + " of text beyond ASCII is not supported");
    }
    return std::string(text);
}

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

Result<Value> trim(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"chars"}));
    if (arguments.find(0, "chars"))
        return make_error(Errc::Unsupported, "trim with characters is not supported");
    FEDLLM_TRY(const auto text, to_text(value));
    return Value(std::string(strip_right(strip_left(text))));
}

template <auto change>
Result<Value> cased(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    FEDLLM_TRY(const auto text, to_text(value));
    FEDLLM_TRY(auto out, change(text));
    return Value(std::move(out));
}

// The filter, unlike the method of strings: words begin after space, - ( { [ or <.
Result<std::string> titled(std::string_view text) {
    FEDLLM_TRY(auto out, to_lower(text));
    bool begins = true;
    for (char& c : out) {
        if (begins) c = upper(c);
        begins = is_python_space(static_cast<unsigned char>(c)) ||
                 std::string_view("-({[<").find(c) != std::string_view::npos;
    }
    return out;
}

Result<Value> string(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (value.text()) return value;
    FEDLLM_TRY(auto text, to_text(value));
    return Value(std::move(text));
}

Result<Value> safe(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    FEDLLM_TRY(auto text, to_text(value));
    return Value(Text{std::move(text), /*safe=*/true});
}

Result<Value> tojson(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY(auto text, to_json(value, arguments));
    return Value(std::move(text));
}

Result<Value> fallback(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"default_value", "boolean"}));
    const Value *other = arguments.find(0, "default_value"), *any_false = arguments.find(1, "boolean");
    if (!value.is_undefined() && !(any_false && truth(*any_false) && !truth(value))) return value;
    return other ? *other : Value(std::string());
}

Result<Value> replace(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"old", "new", "count"}));
    const Value *old_part = arguments.find(0, "old"), *new_part = arguments.find(1, "new");
    const Value* count = arguments.find(2, "count");
    if (!old_part || !new_part || !old_part->text() || !new_part->text()) {
        return make_error(Errc::InvalidData, "replace takes two strings");
    }
    std::int64_t times = -1;
    if (count && !count->is_none()) {
        FEDLLM_TRY(times, integer_argument(*count, "count"));
    }
    FEDLLM_TRY(const auto text, to_text(value));
    const std::string &from = *old_part->text(), &to = *new_part->text();
    if (from.empty()) return make_error(Errc::Unsupported, "replace of an empty string is not supported");
    std::string out;
    std::size_t at = 0;
    for (auto found = text.find(from); found != std::string::npos && times != 0;
         found = text.find(from, at), --times) {
        FEDLLM_TRY_VOID(context.budget.charge(to.size() + found - at));
        out.append(text, at, found - at);
        out += to;
        at = found + from.size();
    }
    return Value(out.append(text, at));
}

Result<Value> length(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (const auto* text = value.text()) return Value::count(text_length(*text));
    if (const auto* mapping = value.mapping()) return Value::count(mapping->entries.size());
    if (value.is_undefined()) return Value::count(0);
    const auto* sequence = value.sequence();
    if (!sequence || sequence->kind == SequenceKind::Generator) {
        return make_error(Errc::InvalidData, std::string(value.type_name()) + " has no length");
    }
    return Value::count(sequence->items.size());
}

// The number that the text is, as Python's int() and float() read it; nothing where it is none.
template <class Number>
std::optional<Number> parse_number(std::string_view text) {
    text = strip_right(strip_left(text));
    if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
    Number number{};
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || code != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return number;
}

Result<Value> integer(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"default"}));
    const Value* given = arguments.find(0, "default");
    const Value otherwise = given ? *given : Value(std::int64_t{0});
    std::optional<double> real;
    if (value.integer()) return Value(*value.integer());
    if (value.real()) real = *value.real();
    if (const auto* text = value.text()) {
        if (const auto number = parse_number<std::int64_t>(*text)) return Value(*number);
        real = parse_number<double>(*text);
    }
    if (!real || !std::isfinite(*real)) return otherwise;
    if (std::fabs(*real) > 9e18)
        return make_error(Errc::Unsupported, "an integer beyond 64 bits is not supported");
    return Value(static_cast<std::int64_t>(*real));
}

Result<Value> real(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"default"}));
    const Value* given = arguments.find(0, "default");
    if (value.real()) return value;
    if (value.integer()) return Value(static_cast<double>(*value.integer()));
    if (const auto* text = value.text()) {
        if (const auto number = parse_number<double>(*text)) return Value(*number);
    }
    return given ? *given : Value(0.0);
}

Result<Value> absolute(Context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (value.real()) return Value(std::fabs(*value.real()));
    FEDLLM_TRY(const auto number, integer_argument(value, "abs: the value"));
    if (number == INT64_MIN)
        return make_error(Errc::Unsupported, "an integer beyond 64 bits is not supported");
    return Value(number < 0 ? -number : number);
}

// Every line but the first, and but blank ones, moves to the right.
Result<Value> indent(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"width", "first", "blank"}));
    FEDLLM_TRY(const auto text, to_text(value));
    std::string margin(4, ' ');
    if (const Value* width = arguments.find(0, "width")) {
        if (width->text()) {
            margin = *width->text();
        } else {
            FEDLLM_TRY(const auto count, integer_argument(*width, "indent: width"));
            if (count > 1000) return make_error(Errc::TooLarge, "indent: the width is beyond 1000");
            margin.assign(static_cast<std::size_t>(std::max<std::int64_t>(count, 0)), ' ');
        }
    }
    const Value *first = arguments.find(1, "first"), *blank = arguments.find(2, "blank");
    if (text.find_first_of("\v\f\x1c\x1d\x1e\r") != std::string::npos) {
        return make_error(Errc::Unsupported, "indent of text with unusual line ends is not supported");
    }
    std::string out;
    for (std::size_t begin = 0, number = 0;; ++number) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const bool wanted = number == 0 ? first && truth(*first) : end > begin || (blank && truth(*blank));
        FEDLLM_TRY_VOID(context.budget.charge(margin.size() + end - begin));
        if (wanted) out += margin;
        out.append(text, begin, end - begin);
        if (end == text.size()) return Value(std::move(out));
        out += '\n';
        begin = end + 1;
    }
}

constexpr std::array kFilters{
    Entry{"abs", absolute},
    Entry{"capitalize", cased<capitalized>},
    Entry{"count", length},
    Entry{"d", fallback},
    Entry{"default", fallback},
    Entry{"dictsort", filter_dictsort},
    Entry{"first", filter_first},
    Entry{"float", real},
    Entry{"indent", indent},
    Entry{"int", integer},
    Entry{"items", filter_items},
    Entry{"join", filter_join},
    Entry{"last", filter_last},
    Entry{"length", length},
    Entry{"list", filter_list},
    Entry{"lower", cased<to_lower>},
    Entry{"map", filter_map},
    Entry{"max", filter_max},
    Entry{"min", filter_min},
    Entry{"reject", filter_reject},
    Entry{"rejectattr", filter_rejectattr},
    Entry{"replace", replace},
    Entry{"reverse", filter_reverse},
    Entry{"safe", safe},
    Entry{"select", filter_select},
    Entry{"selectattr", filter_selectattr},
    Entry{"sort", filter_sort},
    Entry{"string", string},
    Entry{"sum", filter_sum},
    Entry{"title", cased<titled>},
    Entry{"tojson", tojson},
    Entry{"trim", trim},
    Entry{"unique", filter_unique},
    Entry{"upper", cased<to_upper>},
};

const Entry* find_filter(std::string_view name) {
    const auto found = std::find_if(kFilters.begin(), kFilters.end(),
                                    [&](const Entry& entry) { return entry.name == name; });
    return found == kFilters.end() ? nullptr : &*found;
}

}  // namespace

bool is_filter(std::string_view name) { return find_filter(name) != nullptr; }

std::string list_filters() {
    std::string list;
    for (const auto& entry : kFilters) list += (list.empty() ? "" : ", ") + std::string(entry.name);
    return list;
}

Result<Value> apply_filter(Context context, std::string_view name, const Value& value,
                           const Arguments& arguments) {
    if (const Entry* entry = find_filter(name)) return entry->apply(context, value, arguments);
    return make_error(Errc::Unsupported, "the filter '" + std::string(name) +
                                             "' is not supported; supported are " + list_filters());
}

Result<std::string> to_lower(std::string_view text) {
    FEDLLM_TRY(auto out, ascii_only(text, "lower case"));
    std::transform(out.begin(), out.end(), out.begin(), lower);
    return out;
}

Result<std::string> to_upper(std::string_view text) {
    FEDLLM_TRY(auto out, ascii_only(text, "upper case"));
    std::transform(out.begin(), out.end(), out.begin(), upper);
    return out;
}

Result<std::string> capitalized(std::string_view text) {
    FEDLLM_TRY(auto out, to_lower(text));
    if (!out.empty()) out[0] = upper(out[0]);
    return out;
}

}  // namespace fedllm::jinja
