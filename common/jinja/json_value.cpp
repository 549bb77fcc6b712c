#include "common/jinja/json_value.hpp"

#include <limits>
#include <utility>

#include "common/jinja/builtins.hpp"

namespace fedllm::jinja {
namespace {

Result<Value> from_json(const nlohmann::ordered_json& json, std::size_t depth) {
    if (depth > kValueDepthMax) return make_error(Errc::TooLarge, "values are nested too deeply");
    if (json.is_null()) return Value();
    if (json.is_boolean()) return Value(json.get<bool>());
    if (json.is_string()) return Value(json.get<std::string>());
    if (json.is_number_float()) return Value(json.get<double>());
    if (json.is_number()) {
        if (json.is_number_unsigned() &&
            json.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
            return make_error(Errc::Unsupported, "an integer beyond 64 bits is not supported");
        }
        return Value(json.get<std::int64_t>());
    }
    if (json.is_array()) {
        std::vector<Value> items;
        for (const auto& element : json) {
            FEDLLM_TRY(auto item, from_json(element, depth + 1));
            items.push_back(std::move(item));
        }
        return make_sequence(std::move(items));
    }
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& [key, element] : json.items()) {
        FEDLLM_TRY(auto value, from_json(element, depth + 1));
        entries.emplace_back(Value(key), std::move(value));
    }
    return make_mapping(std::move(entries));
}

struct Style {
    bool ascii = false;
    bool sorted = false;
    bool lines = false;  // each item on a line of its own, behind the indent once per level
    std::string indent;
    std::string item_separator = ", ";
    std::string key_separator = ": ";
};

void append_hex(std::string& out, unsigned unit) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += kDigits[(unit >> shift) & 15];
}

void append_ascii(std::string& out, std::string_view character) {
    char32_t c = static_cast<unsigned char>(character[0]) & (0xFFu >> (character.size() + 1));
    for (std::size_t i = 1; i < character.size(); ++i)
        c = (c << 6) | (static_cast<unsigned char>(character[i]) & 0x3Fu);
    if (c < 0x10000) return append_hex(out, static_cast<unsigned>(c));
    append_hex(out, 0xD800 + (static_cast<unsigned>(c - 0x10000) >> 10));
    append_hex(out, 0xDC00 + (static_cast<unsigned>(c - 0x10000) & 0x3FF));
}

void append_string(std::string& out, std::string_view text, const Style& style) {
    out += '"';
    for (const auto character : text_characters(text)) {
        const auto c = static_cast<unsigned char>(character[0]);
        if (character.size() > 1)
            style.ascii ? append_ascii(out, character) : void(out += character);
        else if (c == '"' || c == '\\')
            (out += '\\') += character;
        else if (c == '\n')
            out += "\\n";
        else if (c == '\r')
            out += "\\r";
        else if (c == '\t')
            out += "\\t";
        else if (c == '\b')
            out += "\\b";
        else if (c == '\f')
            out += "\\f";
        else if (c < 0x20 || (style.ascii && c == 0x7F))
            append_hex(out, c);
        else
            out += character;
    }
    out += '"';
}

std::string scalar_json(const Value& value) {
    if (value.is_none()) return "null";
    if (value.boolean()) return *value.boolean() ? "true" : "false";
    if (value.integer()) return std::to_string(*value.integer());
    const std::string text = real_text(*value.real());
    return text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text;
}

class Writer {
public:
    explicit Writer(const Style& style) : style_(style) {}

    Result<void> write(const Value& value) {
        if (const auto* text = value.text()) {
            append_string(out, *text, style_);
        } else if (const auto* items = value.sequence(); items && items->kind <= SequenceKind::Tuple) {
            return write_list(*items);
        } else if (const auto* entries = value.mapping()) {
            return write_dict(*entries);
        } else if (value.is_none() || value.is_number()) {
            out += scalar_json(value);
        } else {
            return make_error(Errc::InvalidData, std::string("tojson cannot write ") + value.type_name());
        }
        return {};
    }

    std::string out;

private:
    void begin_item(bool first) {
        if (!first) out += style_.item_separator;
        if (style_.lines) {
            out += '\n';
            for (std::size_t i = 0; i < depth_; ++i) out += style_.indent;
        }
    }
    void end(char bracket, bool empty) {
        --depth_;
        if (!empty && style_.lines) begin_item(/*first=*/true);
        out += bracket;
    }

    Result<void> write_list(const Sequence& sequence) {
        out += '[';
        ++depth_;
        for (std::size_t i = 0; i < sequence.items.size(); ++i) {
            begin_item(i == 0);
            FEDLLM_TRY_VOID(write(sequence.items[i]));
        }
        end(']', sequence.items.empty());
        return {};
    }

    Result<void> write_dict(const Mapping& mapping) {
        std::vector<const std::pair<Value, Value>*> entries;
        for (const auto& entry : mapping.entries) entries.push_back(&entry);
        if (style_.sorted) {
            if (mapping.index.size() != entries.size()) {
                return make_error(Errc::Unsupported, "tojson sorts string keys only");
            }
            std::sort(entries.begin(), entries.end(),
                      [](const auto* a, const auto* b) { return *a->first.text() < *b->first.text(); });
        }
        out += '{';
        ++depth_;
        for (std::size_t i = 0; i < entries.size(); ++i) {
            begin_item(i == 0);
            const Value& key = entries[i]->first;
            append_string(out, key.text() ? *key.text() : scalar_json(key), style_);
            out += style_.key_separator;
            FEDLLM_TRY_VOID(write(entries[i]->second));
        }
        end('}', entries.empty());
        return {};
    }

    const Style& style_;
    std::size_t depth_ = 0;
};

constexpr std::int64_t kIndentMax = 16;

Result<void> read_indent(const Value& value, Style& style) {
    if (value.is_none()) return {};
    style.lines = true;
    style.item_separator.assign(1, ',');
    if (const auto* text = value.text()) {
        style.indent = text->substr(0, static_cast<std::size_t>(kIndentMax));
        if (style.indent == *text) return {};
        return make_error(Errc::TooLarge, "tojson: the indent is longer than 16");
    }
    FEDLLM_TRY(const auto width, integer_argument(value, "tojson: indent"));
    if (width > kIndentMax) return make_error(Errc::TooLarge, "tojson: the indent is longer than 16");
    style.indent.assign(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
    return {};
}

Result<void> read_separators(const Value& value, Style& style) {
    if (value.is_none()) return {};
    const auto* pair = value.sequence();
    if (!pair || pair->items.size() != 2 || !pair->items[0].text() || !pair->items[1].text()) {
        return make_error(Errc::InvalidData, "tojson: separators are two strings");
    }
    style.item_separator = *pair->items[0].text();
    style.key_separator = *pair->items[1].text();
    if (style.item_separator.size() + style.key_separator.size() > 64) {
        return make_error(Errc::TooLarge, "tojson: the separators are too long");
    }
    return {};
}

}  // namespace

Result<Value> from_json(const nlohmann::ordered_json& json) { return from_json(json, 0); }

Result<std::string> to_json(const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"ensure_ascii", "indent", "separators", "sort_keys"}));
    Style style;
    if (const Value* ascii = arguments.find(0, "ensure_ascii")) style.ascii = truth(*ascii);
    if (const Value* indent = arguments.find(1, "indent")) FEDLLM_TRY_VOID(read_indent(*indent, style));
    if (const Value* separators = arguments.find(2, "separators"))
        FEDLLM_TRY_VOID(read_separators(*separators, style));
    if (const Value* sorted = arguments.find(3, "sort_keys")) style.sorted = truth(*sorted);
    Writer writer(style);
    FEDLLM_TRY_VOID(writer.write(value));
    return std::move(writer.out);
}

}  // namespace fedllm::jinja
