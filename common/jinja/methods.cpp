// The methods of strings, dicts and lists that templates may call.
#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "common/jinja/builtins.hpp"

namespace fedllm::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

// Python's methods, so that a dict's entry of the same name is looked up as Python does; those after the bar
// are refused.
constexpr std::string_view kTextMethods =
    " strip lstrip rstrip split rsplit splitlines startswith endswith upper lower title capitalize replace "
    "find rfind"
    " count join format removeprefix removesuffix isdigit isspace |"
    " casefold center encode expandtabs format_map index isalnum isalpha isascii isdecimal "
    "isidentifier islower"
    " isnumeric isprintable istitle isupper ljust maketrans partition rindex rjust rpartition swapcase "
    "translate zfill ";
constexpr std::string_view kDictMethods =
    " items keys values get copy | clear fromkeys pop popitem setdefault update ";
constexpr std::string_view kListMethods =
    " index count copy | append clear extend insert pop remove reverse sort ";

std::string_view methods_of(const Value& value) {
    if (value.text()) return kTextMethods;
    if (value.mapping()) return kDictMethods;
    if (value.loop()) return " cycle ";
    if (value.sequence() && value.sequence()->kind <= SequenceKind::Tuple) return kListMethods;
    return "";
}

std::size_t place_of(const Value& value, std::string_view name) {
    if (name.find_first_of(" |") != std::string_view::npos) return std::string_view::npos;
    return methods_of(value).find(std::string(" ").append(name).append(" "));
}

Error wrong(std::string_view method, const std::string& what) {
    return make_error(Errc::InvalidData, std::string(".").append(method).append("(): ").append(what));
}

// The argument as text, or `fallback` where it is absent or none.
Result<std::optional<std::string>> text_argument(std::string_view method, const Arguments& arguments,
                                                 std::size_t position, std::string_view name) {
    const Value* value = arguments.find(position, name);
    if (!value || value->is_none()) return std::optional<std::string>();
    if (!value->text()) return wrong(method, std::string("expected a string, found ") + value->type_name());
    return std::optional(*value->text());
}

Result<std::string> required_text(std::string_view method, const Arguments& arguments, std::size_t position) {
    FEDLLM_TRY(const auto text, text_argument(method, arguments, position, ""));
    if (!text) return wrong(method, "expected a string");
    return *text;
}

bool is_one_of(std::string_view character, const std::vector<std::string_view>& characters) {
    return std::find(characters.begin(), characters.end(), character) != characters.end();
}

Result<Value> strip(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"chars"}));
    FEDLLM_TRY(const auto chars, text_argument(method, arguments, 0, "chars"));
    const bool left = method != "rstrip", right = method != "lstrip";
    if (!chars) {
        if (left) text = strip_left(text);
        if (right) text = strip_right(text);
        return Value(std::string(text));
    }
    const auto set = text_characters(*chars);
    auto characters = text_characters(text);
    std::size_t begin = 0, end = characters.size();
    while (left && begin < end && is_one_of(characters[begin], set))
        text.remove_prefix(characters[begin++].size());
    while (right && begin < end && is_one_of(characters[end - 1], set))
        text.remove_suffix(characters[--end].size());
    return Value(std::string(text));
}

// Where there is no separator: between runs of whitespace.
std::vector<std::string> split_spaces(std::string_view text, std::size_t times) {
    std::vector<std::string> parts;
    for (text = strip_left(text); !text.empty(); text = strip_left(text)) {
        if (parts.size() == times) {
            parts.emplace_back(text);
            break;
        }
        std::size_t end = 0;
        while (end < text.size() && strip_left(text.substr(end)).size() == text.size() - end) ++end;
        parts.emplace_back(text.substr(0, end));
        text.remove_prefix(end);
    }
    return parts;
}

std::vector<std::string> split_at(std::string_view text, std::string_view separator, std::size_t times,
                                  bool backwards) {
    std::vector<std::string> parts;
    while (parts.size() < times) {
        const auto found = backwards ? text.rfind(separator) : text.find(separator);
        if (found == std::string_view::npos) break;
        parts.emplace_back(backwards ? text.substr(found + separator.size()) : text.substr(0, found));
        text = backwards ? text.substr(0, found) : text.substr(found + separator.size());
    }
    parts.emplace_back(text);
    if (backwards) std::reverse(parts.begin(), parts.end());
    return parts;
}

Result<Value> texts(std::vector<std::string> parts) {
    std::vector<Value> items;
    for (auto& part : parts) items.emplace_back(std::move(part));
    return make_sequence(std::move(items));
}

Result<Value> split(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"sep", "maxsplit"}));
    FEDLLM_TRY(const auto separator, text_argument(method, arguments, 0, "sep"));
    std::int64_t times = -1;
    if (const Value* value = arguments.find(1, "maxsplit")) {
        FEDLLM_TRY(times, integer_argument(*value, "maxsplit"));
    }
    const std::size_t limit = times < 0 ? ~std::size_t{0} : static_cast<std::size_t>(times);
    const bool backwards = method == "rsplit";
    if (!separator) {
        if (backwards && times >= 0)
            return make_error(Errc::Unsupported, ".rsplit() without a separator is not supported");
        return texts(split_spaces(text, limit));
    }
    if (separator->empty()) return wrong(method, "the separator is empty");
    return texts(split_at(text, *separator, limit, backwards));
}

Result<Value> split_lines(std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    constexpr std::array<std::string_view, 11> kEnds{
        "\r\n", "\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\xC2\x85", "\xE2\x80\xA8", "\xE2\x80\xA9"};
    std::vector<std::string> lines;
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
        const auto end = std::find_if(kEnds.begin(), kEnds.end(),
                                      [&](auto mark) { return text.substr(at).starts_with(mark); });
        if (end == kEnds.end()) {
            ++at;
            continue;
        }
        lines.emplace_back(text.substr(begin, at - begin));
        begin = at += end->size();
    }
    if (begin < text.size()) lines.emplace_back(text.substr(begin));
    return texts(std::move(lines));
}

Result<Value> has_end(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"prefix"}));
    const Value* wanted = arguments.find(0, "prefix");
    if (!wanted) return wrong(method, "expected a string or a tuple of strings");
    const auto* several = wanted->sequence();
    const std::vector<Value> candidates =
        several && several->kind == SequenceKind::Tuple ? several->items : std::vector<Value>{*wanted};
    for (const auto& candidate : candidates) {
        if (!candidate.text())
            return wrong(method, std::string("expected a string, found ") + candidate.type_name());
        if (method == "startswith" ? text.starts_with(*candidate.text())
                                   : text.ends_with(*candidate.text())) {
            return Value(true);
        }
    }
    return Value(false);
}

std::size_t count_of(std::string_view text, std::string_view part) {
    if (part.empty()) return text_length(text) + 1;
    std::size_t count = 0;
    for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size()))
        ++count;
    return count;
}

Result<Value> find_part(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"sub"}));
    FEDLLM_TRY(const auto part, required_text(method, arguments, 0));
    if (method == "count") return Value::count(count_of(text, part));
    const auto found = method == "find" ? text.find(part) : text.rfind(part);
    if (found == std::string_view::npos) return Value(std::int64_t{-1});
    return Value::count(text_length(text.substr(0, found)));
}

Result<Value> join(Context context, const std::string& between, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"iterable"}));
    const Value* list = arguments.find(0, "iterable");
    if (!list) return wrong("join", "expected a list");
    FEDLLM_TRY(const auto items, items_of(context, *list));
    std::string out;
    for (std::size_t i = 0; i < items.size(); ++i) {
        const auto* item = items[i].text();
        if (!item) return wrong("join", std::string("expected strings, found ") + items[i].type_name());
        FEDLLM_TRY_VOID(context.budget.charge(between.size() + item->size()));
        out += (i > 0 ? between : "") + *item;
    }
    return Value(std::move(out));
}

Result<Value> without_end(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"prefix"}));
    FEDLLM_TRY(const auto part, required_text(method, arguments, 0));
    if (method == "removeprefix" && text.starts_with(part)) text.remove_prefix(part.size());
    if (method == "removesuffix" && text.ends_with(part)) text.remove_suffix(part.size());
    return Value(std::string(text));
}

// str.title(): a letter after anything that is none is upper case.
Result<std::string> titled(std::string_view text) {
    FEDLLM_TRY(auto out, to_lower(text));
    const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
    bool inside = false;
    for (char& c : out) {
        const bool letter = is_letter(c);
        if (letter && !inside) c = static_cast<char>(c - 'a' + 'A');
        inside = letter;
    }
    return out;
}

Result<Value> cased(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    FEDLLM_TRY(auto out, method == "upper"        ? to_upper(text)
                         : method == "lower"      ? to_lower(text)
                         : method == "capitalize" ? capitalized(text)
                                                  : titled(text));
    return Value(std::move(out));
}

Result<Value> is_all(std::string_view method, std::string_view text, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (method == "isspace") return Value(!text.empty() && strip_left(text).empty());
    if (std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; })) {
        return make_error(Errc::Unsupported, ".isdigit() of text beyond ASCII is not supported");
    }
    return Value(!text.empty() &&
                 std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }));
}

// str.format with {}, {0} and {name}, which is what templates use.
Result<Value> format(Context context, std::string_view text, const Arguments& arguments) {
    std::string out;
    std::size_t next = 0;
    bool numbered = false;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char c = text[at];
        const bool bracket = c == '{' || c == '}';
        if (!bracket || text.substr(at + 1).starts_with(c)) {
            out += c;
            if (bracket) ++at;
            continue;
        }
        const std::size_t end = text.find('}', at);
        if (c == '}' || end == std::string_view::npos)
            return wrong("format", std::string("a single '") + c + "'");
        const std::string_view field = text.substr(at + 1, end - at - 1);
        if (field.find_first_of(".[!:{") != std::string_view::npos) {
            return make_error(Errc::Unsupported, "the format '{" + std::string(field) +
                                                     "}' is not supported; supported are {}, {0} and {name}");
        }
        if (!field.empty() && field[0] >= '0' && field[0] <= '9') numbered = true;
        std::size_t position = field.empty() ? next++ : arguments.positional.size();
        if (numbered && next > 0) return wrong("format", "{} and {0} do not mix");
        std::from_chars(field.data(), field.data() + field.size(), position);
        const Value* value = arguments.find(position, field);
        if (!value) return wrong("format", "no value for '{" + std::string(field) + "}'");
        FEDLLM_TRY(const auto part, to_text(*value));
        FEDLLM_TRY_VOID(context.budget.charge(part.size()));
        out += part;
        at = end;
    }
    return Value(std::move(out));
}

Result<Value> text_method(Context context, const std::string& text, std::string_view name,
                          const Arguments& arguments) {
    if (name.ends_with("strip")) return strip(name, text, arguments);
    if (name == "splitlines") return split_lines(text, arguments);
    if (name.ends_with("split")) return split(name, text, arguments);
    if (name.ends_with("with")) return has_end(name, text, arguments);
    if (name.ends_with("find") || name == "count") return find_part(name, text, arguments);
    if (name == "format") return format(context, text, arguments);
    if (name == "join") return join(context, text, arguments);
    if (name == "replace") return apply_filter(context, "replace", Value(text), arguments);
    if (name.starts_with("remove")) return without_end(name, text, arguments);
    if (name.starts_with("is")) return is_all(name, text, arguments);
    return cased(name, text, arguments);
}

Result<Value> dict_method(const Value& receiver, std::string_view name, const Arguments& arguments) {
    const Mapping& mapping = *receiver.mapping();
    if (name == "get") {
        FEDLLM_TRY_VOID(arguments.check({"key", "default"}));
        const Value *key = arguments.find(0, "key"), *fallback = arguments.find(1, "default");
        if (!key) return wrong(name, "expected a key");
        if (const Value* found = mapping.find(*key)) return *found;
        return fallback ? *fallback : Value();
    }
    FEDLLM_TRY_VOID(arguments.check({}));
    if (name == "copy") return receiver;
    std::vector<Value> items;
    for (const auto& [key, value] : mapping.entries) {
        if (name == "keys") {
            items.push_back(key);
        } else if (name == "values") {
            items.push_back(value);
        } else {
            FEDLLM_TRY(auto pair, make_sequence({key, value}, SequenceKind::Tuple));
            items.push_back(std::move(pair));
        }
    }
    return make_sequence(std::move(items), SequenceKind::View);
}

Result<Value> list_method(const Value& receiver, std::string_view name, const Arguments& arguments) {
    if (name == "copy") return receiver;
    FEDLLM_TRY_VOID(arguments.check({"value"}));
    const Value* wanted = arguments.find(0, "value");
    if (!wanted) return wrong(name, "expected a value");
    const auto& items = receiver.sequence()->items;
    const auto matches = [&](const Value& item) { return equal(item, *wanted); };
    if (name == "count")
        return Value(static_cast<std::int64_t>(std::count_if(items.begin(), items.end(), matches)));
    const auto found = std::find_if(items.begin(), items.end(), matches);
    if (found == items.end()) return wrong(name, "the value is not in the list");
    return Value::count(static_cast<std::size_t>(found - items.begin()));
}

}  // namespace

bool has_method(const Value& receiver, std::string_view name) {
    return place_of(receiver, name) != std::string_view::npos;
}

Result<Value> find_method(const Value& receiver, std::string_view name) {
    const auto all = methods_of(receiver);
    if (place_of(receiver, name) > all.find('|')) {
        return make_error(Errc::Unsupported, "the method ." + std::string(name) + "() of " +
                                                 receiver.type_name() + " is not supported; supported are" +
                                                 std::string(all.substr(0, all.find(" |"))));
    }
    return Value(Callable{std::string(name), nullptr, std::make_shared<const Value>(receiver)});
}

Result<Value> call_method(Context context, const Value& receiver, std::string_view name,
                          const Arguments& arguments) {
    if (receiver.is_safe()) {
        return make_error(Errc::Unsupported,
                          "the method ." + std::string(name) + "() of text marked safe is not supported");
    }
    if (const auto* text = receiver.text()) return text_method(context, *text, name, arguments);
    if (receiver.mapping()) return dict_method(receiver, name, arguments);
    if (receiver.sequence()) return list_method(receiver, name, arguments);
    const auto& values = arguments.positional;  // loop.cycle
    if (values.empty()) return wrong(name, "expected values");
    return values[receiver.loop()->index0 % values.size()];
}

}  // namespace fedllm::jinja
