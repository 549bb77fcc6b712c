#include "common/jinja/value.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "common/base/text.hpp"

namespace fedllm::jinja {

const std::string* Value::text() const {
    const auto* held = pointed<Text>();
    return held ? &held->text : nullptr;
}

bool Value::is_safe() const {
    const auto* held = pointed<Text>();
    return held && held->safe;
}

std::shared_ptr<const Sequence> Value::shared_sequence() const {
    const auto* held = std::get_if<std::shared_ptr<const Sequence>>(&state_);
    return held ? *held : nullptr;
}

Namespace* Value::names() const {
    const auto* held = std::get_if<std::shared_ptr<Namespace>>(&state_);
    return held ? held->get() : nullptr;
}

std::optional<std::int64_t> Value::integer() const {
    if (const bool* value = boolean()) return *value ? 1 : 0;
    if (const auto* value = std::get_if<std::int64_t>(&state_)) return *value;
    return std::nullopt;
}

std::size_t Value::depth() const {
    if (const auto* items = sequence()) return items->depth;
    if (const auto* entries = mapping()) return entries->depth;
    return 0;
}

std::size_t Value::weight() const {
    constexpr std::size_t kScalar = 16;
    if (const auto* content = text()) return kScalar + content->size();
    if (const auto* items = sequence()) return items->weight;
    if (const auto* entries = mapping()) return entries->weight;
    return kScalar;
}

const char* Value::type_name() const {
    if (is_undefined()) return "undefined";
    if (is_none()) return "none";
    if (boolean()) return "a boolean";
    if (integer()) return "an integer";
    if (real()) return "a float";
    if (text()) return "a string";
    if (mapping()) return "a dict";
    if (names()) return "a namespace";
    if (loop()) return "the loop";
    if (callable()) return "a function";
    switch (sequence()->kind) {
        case SequenceKind::List: return "a list";
        case SequenceKind::Tuple: return "a tuple";
        case SequenceKind::Range: return "a range";
        case SequenceKind::View: return "a view of a dict";
        case SequenceKind::Generator: break;
    }
    return "a generator";
}

const Value* Mapping::find(std::string_view key) const {
    const auto found = index.find(key);
    return found == index.end() ? nullptr : &entries[found->second].second;
}

const Value* Mapping::find(const Value& key) const {
    if (const auto* name = key.text()) return find(*name);
    if (index.size() == entries.size()) return nullptr;
    for (const auto& [other, value] : entries) {
        if (equal(other, key)) return &value;
    }
    return nullptr;
}

namespace {

constexpr std::size_t kOtherKeysMax = 1000;  // they are looked for one by one

// What a container adds up to.
struct Extent {
    std::size_t depth = 0;
    std::size_t weight = 16;

    void add(const Value& value) {
        depth = std::max(depth, value.depth());
        weight += value.weight();
    }
    Result<void> check() const {
        if (depth >= kValueDepthMax) return make_error(Errc::TooLarge, "values are nested too deeply");
        if (weight > kValueWeightMax) return make_error(Errc::TooLarge, "a list or dict grows too large");
        return {};
    }
};

}  // namespace

Result<Value> make_sequence(std::vector<Value> items, SequenceKind kind) {
    Extent extent;
    for (const auto& item : items) extent.add(item);
    FEDLLM_TRY_VOID(extent.check());
    return Value(
        std::make_shared<const Sequence>(Sequence{std::move(items), kind, extent.depth + 1, extent.weight}));
}

Result<Value> make_mapping(std::vector<std::pair<Value, Value>> entries) {
    Mapping result;
    Extent extent;
    for (auto& [key, value] : entries) {
        if (!key.text() && !key.is_number() && !key.is_none()) {
            return make_error(Errc::Unsupported, std::string("the key of a dict is ") + key.type_name() +
                                                     "; supported are strings, numbers and none");
        }
        extent.add(key);
        extent.add(value);
        if (const Value* known = result.find(key)) {
            *const_cast<Value*>(known) = std::move(value);
            continue;
        }
        if (!key.text() && result.entries.size() - result.index.size() >= kOtherKeysMax) {
            return make_error(Errc::TooLarge, "a dict has too many keys that are no strings");
        }
        if (const auto* name = key.text()) result.index.emplace(*name, result.entries.size());
        result.entries.emplace_back(std::move(key), std::move(value));
    }
    FEDLLM_TRY_VOID(extent.check());
    result.depth = extent.depth + 1;
    result.weight = extent.weight;
    return Value(std::make_shared<const Mapping>(std::move(result)));
}

bool truth(const Value& value) {
    if (value.is_undefined() || value.is_none()) return false;
    if (const auto number = value.integer()) return *number != 0;
    if (const auto* real = value.real()) return *real != 0;
    if (const auto* text = value.text()) return !text->empty();
    if (const auto* items = value.sequence()) {
        return items->kind == SequenceKind::Generator || !items->items.empty();
    }
    if (const auto* entries = value.mapping()) return !entries->entries.empty();
    return true;
}

namespace {

double as_double(const Value& value) {
    return value.real() ? *value.real() : static_cast<double>(*value.integer());
}

bool equal_sequences(const Sequence& a, const Sequence& b) {
    if (&a == &b) return true;
    if (a.kind != b.kind || a.kind == SequenceKind::Generator || a.items.size() != b.items.size())
        return false;
    return std::equal(a.items.begin(), a.items.end(), b.items.begin(), equal);
}

bool equal_mappings(const Mapping& a, const Mapping& b) {
    if (a.entries.size() != b.entries.size()) return false;
    return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
        const Value* other = b.find(entry.first);
        return other && equal(entry.second, *other);
    });
}

}  // namespace

bool equal(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) {
        if (a.real() || b.real()) return as_double(a) == as_double(b);
        return *a.integer() == *b.integer();
    }
    if (a.text() && b.text()) return *a.text() == *b.text();
    if (a.sequence() && b.sequence()) return equal_sequences(*a.sequence(), *b.sequence());
    if (a.mapping() && b.mapping()) return equal_mappings(*a.mapping(), *b.mapping());
    if (a.is_none() || a.is_undefined()) return a.is_none() ? b.is_none() : b.is_undefined();
    if (a.names()) return a.names() == b.names();
    if (a.callable()) return a.callable() == b.callable();
    return a.loop() && a.loop() == b.loop();
}

Result<bool> less(const Value& a, const Value& b) {
    if (a.is_number() && b.is_number()) {
        if (a.real() || b.real()) return as_double(a) < as_double(b);
        return *a.integer() < *b.integer();
    }
    if (a.text() && b.text()) return *a.text() < *b.text();  // UTF-8 sorts as its code points do
    const auto *left = a.sequence(), *right = b.sequence();
    if (left && right && left->kind == right->kind && left->kind <= SequenceKind::Tuple) {
        for (std::size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
            if (!equal(left->items[i], right->items[i])) return less(left->items[i], right->items[i]);
        }
        return left->items.size() < right->items.size();
    }
    return make_error(Errc::InvalidData,
                      std::string("there is no order between ") + a.type_name() + " and " + b.type_name());
}

std::string real_text(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    const double size = std::fabs(value);
    char buffer[64];
    const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
    const auto format = scientific ? std::chars_format::scientific : std::chars_format::fixed;
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr;
    std::string text(buffer, end);
    if (!scientific && text.find('.') == std::string::npos) text += ".0";
    return text;
}

namespace {

// Python escapes what it cannot print. Of the characters beyond Latin-1 these are spaces, formats and private
// use; unassigned ones, which Python escapes too, are printed.
bool is_printable(char32_t c) {
    if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD) return false;
    return !(is_python_space(c) && c != ' ') && !(c >= 0x200B && c <= 0x200F) &&
           !(c >= 0x202A && c <= 0x202E) && !(c >= 0x2060 && c <= 0x206F) && c != 0xFEFF &&
           !(c >= 0xE000 && c <= 0xF8FF) && !(c >= 0xFFF0 && c <= 0xFFFB) && c != 0xFFFE && c != 0xFFFF &&
           c < 0xE0000;
}

char32_t decode(std::string_view character) {
    const auto byte = [&](std::size_t i) {
        return static_cast<char32_t>(static_cast<unsigned char>(character[i]));
    };
    if (character.size() == 1) return byte(0);
    char32_t c = byte(0) & (0xFFu >> (character.size() + 1));
    for (std::size_t i = 1; i < character.size(); ++i) c = (c << 6) | (byte(i) & 0x3Fu);
    return c;
}

std::string escape_number(char32_t c) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    const int width = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
    std::string out = width == 2 ? "\\x" : width == 4 ? "\\u" : "\\U";
    for (int shift = 4 * (width - 1); shift >= 0; shift -= 4) out += kDigits[(c >> shift) & 15];
    return out;
}

std::string quoted(std::string_view text) {  // repr(str)
    const bool has_single = text.find('\'') != std::string_view::npos;
    const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
    std::string out(1, quote);
    for (const auto character : text_characters(text)) {
        const char32_t c = decode(character);
        if (character == "\n")
            out += "\\n";
        else if (character == "\r")
            out += "\\r";
        else if (character == "\t")
            out += "\\t";
        else if (character == "\\" || character[0] == quote)
            (out += '\\') += character;
        else if (is_printable(c))
            out += character;
        else
            out += escape_number(c);
    }
    return out + quote;
}

Result<std::string> repr(const Value& value) {
    if (const auto* text = value.text()) {
        return value.is_safe() ? "Markup(" + quoted(*text) + ")" : quoted(*text);
    }
    if (value.is_undefined()) return std::string("Undefined");
    return to_text(value);
}

Result<std::string> sequence_text(const Sequence& sequence) {
    const bool tuple = sequence.kind == SequenceKind::Tuple;
    std::string out = tuple ? "(" : "[";
    for (std::size_t i = 0; i < sequence.items.size(); ++i) {
        FEDLLM_TRY(const auto item, repr(sequence.items[i]));
        out += (i > 0 ? ", " : "") + item;
    }
    if (tuple && sequence.items.size() == 1) out += ",";
    return out + (tuple ? ")" : "]");
}

Result<std::string> mapping_text(const Mapping& mapping) {
    std::string out = "{";
    for (const auto& [key, value] : mapping.entries) {
        FEDLLM_TRY(const auto left, repr(key));
        FEDLLM_TRY(const auto right, repr(value));
        out += (out.size() > 1 ? ", " : "") + left + ": " + right;
    }
    return out + "}";
}

}  // namespace

Result<std::string> to_text(const Value& value) {
    if (value.is_undefined()) return std::string();
    if (value.is_none()) return std::string("None");
    if (const bool* boolean = value.boolean()) return std::string(*boolean ? "True" : "False");
    if (const auto number = value.integer()) return std::to_string(*number);
    if (const auto* real = value.real()) return real_text(*real);
    if (const auto* text = value.text()) return *text;
    if (const auto* items = value.sequence(); items && items->kind <= SequenceKind::Tuple)
        return sequence_text(*items);
    if (const auto* entries = value.mapping()) return mapping_text(*entries);
    return make_error(Errc::Unsupported, std::string("printing ") + value.type_name() + " is not supported");
}

// ---------------------------------------------------------------------------------------------------------------
// Text

std::vector<std::string_view> text_characters(std::string_view text) {
    std::vector<std::string_view> characters;
    while (!text.empty()) {
        const std::size_t length = std::max<std::size_t>(utf8_sequence_length(text), 1);
        characters.push_back(text.substr(0, length));
        text.remove_prefix(length);
    }
    return characters;
}

std::size_t text_length(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

bool is_python_space(char32_t c) {
    return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

std::string_view strip_left(std::string_view text) {
    while (!text.empty()) {
        const std::size_t length = std::max<std::size_t>(utf8_sequence_length(text), 1);
        if (!is_python_space(decode(text.substr(0, length)))) break;
        text.remove_prefix(length);
    }
    return text;
}

std::string_view strip_right(std::string_view text) {
    while (!text.empty()) {
        std::size_t begin = text.size() - 1;
        while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0u) == 0x80u) --begin;
        if (!is_python_space(decode(text.substr(begin)))) break;
        text = text.substr(0, begin);
    }
    return text;
}

}  // namespace fedllm::jinja
