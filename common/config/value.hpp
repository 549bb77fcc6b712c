// How each type of a configuration member is read from YAML scalars and printed back.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::config {

// A size in bytes, written "64 MiB" or as a plain number.
struct ByteCount {
    std::uint64_t bytes = 0;
    auto operator<=>(const ByteCount&) const = default;
};

// What stands behind a key: one scalar, a sequence of them, or a section with free keys (`keys` beside
// `items`).
struct Scalars {
    enum class Kind { One, List, Section };
    Kind kind = Kind::One;
    std::vector<std::string> items;
    std::vector<std::string> keys;
};

Result<void> check_bounds(double value, std::optional<double> min, std::optional<double> max);
Result<std::string> single(const Scalars& scalars);  // the one scalar, or an error

Result<bool> parse_bool(const std::string& text);
Result<std::int64_t> parse_signed(const std::string& text);
Result<std::uint64_t> parse_unsigned(const std::string& text);
Result<double> parse_double(const std::string& text);
Result<Duration> parse_duration(const std::string& text);     // "250ms", "30s", "5m", "2h", "7d"
Result<ByteCount> parse_byte_count(const std::string& text);  // "512", "64 KiB", "2GiB", "5 MB"
std::string print_double(double value);                       // the shortest text that reads back equal
std::string print_duration(Duration value);
std::string print_byte_count(ByteCount value);
std::string quote(std::string_view text);  // as a YAML scalar

// Enums take part by specialising this with: static constexpr std::array<std::pair<E, std::string_view>, N>
// rows.
template <class E>
struct EnumNames;

template <class E>
std::string_view enum_name(E value) {
    for (const auto& [candidate, text] : EnumNames<E>::rows) {
        if (candidate == value) return text;
    }
    return "?";
}

template <class T>
struct Value;

template <>
struct Value<bool> {
    static std::string type() { return "true or false"; }
    static Result<bool> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        return parse_bool(text);
    }
    static std::string print(bool value) { return value ? "true" : "false"; }
};

template <class T>
requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) struct Value<T> {
    static std::string type() { return "integer"; }
    static Result<T> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        if constexpr (std::is_signed_v<T>) {
            FEDLLM_TRY(const auto value, parse_signed(text));
            if (!std::in_range<T>(value)) return make_error(Errc::InvalidConfig, "the number is too large");
            return static_cast<T>(value);
        } else {
            FEDLLM_TRY(const auto value, parse_unsigned(text));
            if (!std::in_range<T>(value)) return make_error(Errc::InvalidConfig, "the number is too large");
            return static_cast<T>(value);
        }
    }
    static std::string print(T value) { return std::to_string(value); }
    static double magnitude(T value) { return static_cast<double>(value); }
};

template <>
struct Value<double> {
    static std::string type() { return "number"; }
    static Result<double> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        return parse_double(text);
    }
    static std::string print(double value) { return print_double(value); }
    static double magnitude(double value) { return value; }
};

template <>
struct Value<std::string> {
    static std::string type() { return "text"; }
    static Result<std::string> parse(const Scalars& s) { return single(s); }
    static std::string print(const std::string& value) { return quote(value); }
};

template <>
struct Value<Path> {
    static std::string type() { return "path"; }
    static Result<Path> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        return Path(text);
    }
    static std::string print(const Path& value) { return quote(value.string()); }
};

template <>
struct Value<Duration> {
    static std::string type() { return "duration (250ms, 30s, 5m, 2h)"; }
    static Result<Duration> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        return parse_duration(text);
    }
    static std::string print(Duration value) { return print_duration(value); }
    static double magnitude(Duration value) {
        return std::chrono::duration<double>(value).count();
    }  // seconds
};

template <>
struct Value<ByteCount> {
    static std::string type() { return "size (64 KiB, 2 GiB)"; }
    static Result<ByteCount> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        return parse_byte_count(text);
    }
    static std::string print(ByteCount value) { return print_byte_count(value); }
    static double magnitude(ByteCount value) { return static_cast<double>(value.bytes); }
};

template <>
struct Value<std::vector<std::uint32_t>> {
    static std::string type() { return "list of integers"; }
    static Result<std::vector<std::uint32_t>> parse(const Scalars& s) {
        if (s.kind == Scalars::Kind::Section)
            return make_error(Errc::InvalidConfig, "expected a list, not a section");
        std::vector<std::uint32_t> numbers;
        for (const std::string& item : s.items) {
            Scalars one;
            one.items = {item};
            FEDLLM_TRY(const std::uint32_t number, Value<std::uint32_t>::parse(one));
            numbers.push_back(number);
        }
        return numbers;
    }
    static std::string print(const std::vector<std::uint32_t>& value) {
        std::string text = "[";
        for (std::size_t i = 0; i < value.size(); ++i) text += (i ? ", " : "") + std::to_string(value[i]);
        return text + "]";
    }
};

template <>
struct Value<std::vector<std::string>> {
    static std::string type() { return "list of text"; }
    static Result<std::vector<std::string>> parse(const Scalars& s) {
        if (s.kind == Scalars::Kind::Section)
            return make_error(Errc::InvalidConfig, "expected a list, not a section");
        return s.items;
    }
    static std::string print(const std::vector<std::string>& value) {
        std::string text = "[";
        for (std::size_t i = 0; i < value.size(); ++i) text += (i ? ", " : "") + quote(value[i]);
        return text + "]";
    }
};

// A section whose keys the user chooses: names and what they stand for.
template <class T>
struct Value<std::map<std::string, T>> {
    static std::string type() { return "section of 'name: " + Value<T>::type() + "' lines"; }
    static Result<std::map<std::string, T>> parse(const Scalars& s) {
        std::map<std::string, T> result;
        if (s.kind != Scalars::Kind::Section)
            return make_error(Errc::InvalidConfig, "expected indented lines");
        for (std::size_t i = 0; i < s.items.size(); ++i) {
            auto value = Value<T>::parse({.kind = Scalars::Kind::One, .items = {s.items[i]}, .keys = {}});
            if (!value) return with_context(value.error(), s.keys[i]);
            if (!result.emplace(s.keys[i], *std::move(value)).second) {
                return make_error(Errc::InvalidConfig, s.keys[i] + ": this key is given twice");
            }
        }
        return result;
    }
    // The lines below the key, each after a newline; write_yaml() indents them.
    static std::string print(const std::map<std::string, T>& value) {
        std::string text;
        for (const auto& [key, item] : value) text += "\n  " + quote(key) + ": " + Value<T>::print(item);
        return text.empty() ? "{}" : text;
    }
};

template <class E>
requires std::is_enum_v<E>
struct Value<E> {
    static std::string type() { return "one of " + choices(); }
    static Result<E> parse(const Scalars& s) {
        FEDLLM_TRY(const std::string text, single(s));
        for (const auto& [value, name] : EnumNames<E>::rows) {
            if (name == text) return value;
        }
        return make_error(Errc::InvalidConfig, "'" + text + "' is not one of " + choices());
    }
    static std::string print(E value) { return std::string(enum_name(value)); }

private:
    static std::string choices() {
        std::string text;
        for (const auto& row : EnumNames<E>::rows)
            text += (text.empty() ? "" : ", ") + std::string(row.second);
        return text;
    }
};

}  // namespace fedllm::config
