#include "common/config/value.hpp"

#include <charconv>
#include <cmath>
#include <limits>

#include "common/base/text.hpp"

namespace fedllm::config {
namespace {

Error wrong(std::string what) { return make_error(Errc::InvalidConfig, std::move(what)); }

template <class T>
Result<T> parse_whole(const std::string& text, const char* expected) {
    T value{};
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc{} || end != text.data() + text.size()) {
        return wrong("'" + text + "' is not " + expected);
    }
    return value;
}

struct UnitRow {
    std::string_view name;
    double factor;
};

// "<number><spaces><unit>" to number * factor.
Result<double> parse_with_unit(const std::string& text, std::span<const UnitRow> units,
                               const char* expected) {
    double number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
    if (code == std::errc{} && std::isfinite(number) && number >= 0) {
        for (const UnitRow& row : units) {
            if (row.name == unit) return number * row.factor;
        }
    }
    return wrong("'" + text + "' is not " + expected);
}

}  // namespace

Result<void> check_bounds(double value, std::optional<double> min, std::optional<double> max) {
    if (min && value < *min) return wrong("must be at least " + print_double(*min));
    if (max && value > *max) return wrong("must be at most " + print_double(*max));
    return {};
}

Result<std::string> single(const Scalars& scalars) {
    if (scalars.kind != Scalars::Kind::One || scalars.items.size() != 1) {
        return wrong(scalars.kind == Scalars::Kind::Section ? "expected one value, not a section"
                                                            : "expected one value, not a list");
    }
    return scalars.items.front();
}

Result<bool> parse_bool(const std::string& text) {
    if (text == "true") return true;
    if (text == "false") return false;
    return wrong("'" + text + "' is not true or false");
}

Result<std::int64_t> parse_signed(const std::string& text) {
    return parse_whole<std::int64_t>(text, "a whole number");
}
Result<std::uint64_t> parse_unsigned(const std::string& text) {
    return parse_whole<std::uint64_t>(text, "a whole number of 0 or more");
}

Result<double> parse_double(const std::string& text) {
    FEDLLM_TRY(const double value, parse_whole<double>(text, "a number"));
    if (!std::isfinite(value)) return wrong("'" + text + "' is not a finite number");
    return value;
}

Result<Duration> parse_duration(const std::string& text) {
    static constexpr std::array<UnitRow, 5> kUnits{
        {{"ms", 1.0}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}, {"d", 86400e3}}};
    FEDLLM_TRY(const double ms, parse_with_unit(text, kUnits, "a duration such as 250ms, 30s, 5m or 2h"));
    if (ms > 86400e3 * 36500) return wrong("'" + text + "' is longer than a hundred years");
    return Duration(static_cast<Duration::rep>(std::llround(ms)));
}

Result<ByteCount> parse_byte_count(const std::string& text) {
    static constexpr std::array<UnitRow, 10> kUnits{{{"", 1},
                                                     {"B", 1},
                                                     {"KiB", 1024},
                                                     {"MiB", 1048576},
                                                     {"GiB", 1073741824},
                                                     {"TiB", 1099511627776},
                                                     {"KB", 1e3},
                                                     {"MB", 1e6},
                                                     {"GB", 1e9},
                                                     {"TB", 1e12}}};
    FEDLLM_TRY(const double bytes, parse_with_unit(text, kUnits, "a size such as 512, 64 KiB or 2 GiB"));
    if (bytes > 0x1p60) return wrong("'" + text + "' is too large a size");
    return ByteCount{static_cast<std::uint64_t>(bytes)};
}

std::string print_double(double value) {
    char text[40];
    const auto [end, code] = std::to_chars(text, text + sizeof text, value);
    return code == std::errc{} ? std::string(text, end) : "0";
}

std::string print_duration(Duration value) {
    struct Row {
        std::int64_t ms;
        const char* name;
    };
    static constexpr std::array<Row, 4> kUnits{{{3600'000, "h"}, {60'000, "m"}, {1000, "s"}, {1, "ms"}}};
    const std::int64_t count = value.count();
    for (const Row& row : kUnits) {
        if (count != 0 && count % row.ms == 0) return std::to_string(count / row.ms) + row.name;
    }
    return "0s";
}

std::string print_byte_count(ByteCount value) {
    static constexpr std::array<const char*, 5> kUnits{"", " KiB", " MiB", " GiB", " TiB"};
    std::uint64_t number = value.bytes;
    std::size_t unit = 0;
    while (number != 0 && number % 1024 == 0 && unit + 1 < kUnits.size()) {
        number /= 1024;
        ++unit;
    }
    return std::to_string(number) + kUnits[unit];
}

std::string quote(std::string_view text) {
    bool plain = !text.empty();
    for (const char c : text) {
        plain = plain &&
                (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.' || c == '/');
    }
    // A word that YAML would read as something else than text, or that starts like a list item, is quoted.
    plain = plain && text != "true" && text != "false" && text != "null" && text.front() != '-';
    if (plain) return std::string(text);
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') quoted += '\\';
        if (c == '\n') {
            quoted += "\\n";
        } else {
            quoted += c;
        }
    }
    return quoted + "\"";
}

}  // namespace fedllm::config
