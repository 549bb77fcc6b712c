// Log lines: one event as a sentence and its fields, for people by default and as JSON objects by option.
//
//   log::info("round closed", {{"job", "j1"}, {"round", 3}, {"accepted", 2}});
//   2026-11-23 08:51:45 INFO  round closed  job=j1 round=3 accepted=2      (times are UTC)
//   {"ts":"2026-11-23T08:51:45.123Z","level":"info","msg":"round closed","job":"j1","round":3,"accepted":2}
//
// Rule: fields never hold keys, tokens, tensor values, seeds of masks or private text.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

namespace fedllm::log {

enum class Level { Debug, Info, Warn, Error };
enum class Format { Human, Json };

struct LogOptions {
    Format format = Format::Human;
    Level level = Level::Info;
    // Takes the finished lines (without line end) instead of standard error; for tests.
    std::function<void(std::string_view line)> sink = {};
};

// Call before threads start, first thing in main(). Without it lines go to standard error, human, from Info
// on.
void setup(LogOptions options);

class Field {
public:
    Field(std::string_view key, std::string_view value) : key_(key), value_(std::string(value)) {}
    Field(std::string_view key, const char* value) : Field(key, std::string_view(value)) {}
    Field(std::string_view key, const std::string& value) : Field(key, std::string_view(value)) {}
    Field(std::string_view key, bool value) : key_(key), value_(value) {}
    Field(std::string_view key, std::signed_integral auto value) : key_(key), value_(std::int64_t{value}) {}
    Field(std::string_view key, std::unsigned_integral auto value)
        : key_(key), value_(std::uint64_t{value}) {}
    Field(std::string_view key, double value) : key_(key), value_(value) {}

    std::string_view key() const { return key_; }
    const std::variant<std::string, bool, std::int64_t, std::uint64_t, double>& value() const {
        return value_;
    }

private:
    std::string_view key_;  // a literal
    std::variant<std::string, bool, std::int64_t, std::uint64_t, double> value_;
};

using Fields = std::initializer_list<Field>;

// Concurrency: from any thread; a line is never torn.
void debug(std::string_view event, Fields fields = {});
void info(std::string_view event, Fields fields = {});
void warn(std::string_view event, Fields fields = {});
void error(std::string_view event, Fields fields = {});

}  // namespace fedllm::log
