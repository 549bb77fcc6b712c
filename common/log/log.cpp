#include "common/log/log.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <memory>
#include <mutex>
#include <utility>

#include "common/base/text.hpp"

namespace fedllm::log {
namespace {

// Lines are made here, whole; spdlog gives levels, thread safety and the sink.
class FunctionSink final : public spdlog::sinks::base_sink<std::mutex> {
public:
    explicit FunctionSink(std::function<void(std::string_view)> take) : take_(std::move(take)) {}

private:
    void sink_it_(const spdlog::details::log_msg& message) override {
        take_(std::string_view(message.payload.data(), message.payload.size()));
    }
    void flush_() override {}

    std::function<void(std::string_view)> take_;
};

struct Setup {
    Format format = Format::Human;
    std::shared_ptr<spdlog::logger> logger;
};

spdlog::level::level_enum level_of(Level level) {
    switch (level) {
        case Level::Debug: return spdlog::level::debug;
        case Level::Info: return spdlog::level::info;
        case Level::Warn: return spdlog::level::warn;
        case Level::Error: return spdlog::level::err;
    }
    return spdlog::level::info;
}

Setup make_setup(LogOptions options) {
    spdlog::sink_ptr sink;
    if (options.sink) {
        sink = std::make_shared<FunctionSink>(std::move(options.sink));
    } else {
        sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    }
    auto logger = std::make_shared<spdlog::logger>("fedllm", std::move(sink));
    logger->set_level(level_of(options.level));
    logger->set_pattern("%v");
    logger->flush_on(spdlog::level::debug);
    return {options.format, std::move(logger)};
}

// The one piece of process-wide state of the project: standard error is process-wide too.
Setup& current() {
    static Setup instance = make_setup({});
    return instance;
}

struct LevelNames {
    std::string_view padded;
    std::string_view json;
};

LevelNames names(Level level) {
    switch (level) {
        case Level::Debug: return {"DEBUG", "debug"};
        case Level::Info: return {"INFO ", "info"};
        case Level::Warn: return {"WARN ", "warn"};
        case Level::Error: return {"ERROR", "error"};
    }
    return {"INFO ", "info"};
}

// Escapes quotes, backslashes and control characters as JSON does: a peer's text can neither break a line nor
// steer a terminal.
void append_escaped(std::string& out, std::string_view text) {
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        switch (c) {
            case '"': out += "\\\""; break;
            case '\\': out += "\\\\"; break;
            case '\n': out += "\\n"; break;
            case '\r': out += "\\r"; break;
            case '\t': out += "\\t"; break;
            default:
                if (byte < 0x20 || byte == 0x7f) {
                    out += fmt::format("\\u{:04x}", byte);
                } else {
                    out += c;
                }
        }
    }
}

std::string valid_utf8(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = utf8_sequence_length(text);
        out += length == 0 ? std::string_view("\xef\xbf\xbd") : text.substr(0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return out;
}

std::string quoted(std::string_view text) {
    std::string out = "\"";
    append_escaped(out, valid_utf8(text));
    return out + '"';
}

bool is_plain(std::string_view text) {
    if (text.empty()) return false;
    for (const char c : text) {
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f) return false;
    }
    return true;
}

std::string value_text(const Field& field, Format format) {
    struct Visitor {
        Format format;
        std::string operator()(const std::string& text) const {
            return format == Format::Human && is_plain(text) ? valid_utf8(text) : quoted(text);
        }
        std::string operator()(bool value) const { return value ? "true" : "false"; }
        std::string operator()(std::int64_t value) const { return fmt::to_string(value); }
        std::string operator()(std::uint64_t value) const { return fmt::to_string(value); }
        std::string operator()(double value) const {
            if (format == Format::Human) return fmt::format("{:.6g}", value);
            return std::isfinite(value) ? fmt::format("{}", value) : fmt::format("\"{}\"", value);
        }
    };
    return std::visit(Visitor{format}, field.value());
}

std::string human_line(const spdlog::log_clock::time_point now, Level level, std::string_view event,
                       Fields fields) {
    std::string line = fmt::format("{:%Y-%m-%d %H:%M:%S} {} ", fmt::gmtime(spdlog::log_clock::to_time_t(now)),
                                   names(level).padded);
    append_escaped(line, valid_utf8(event));
    if (fields.size() > 0) line += ' ';
    for (const Field& field : fields)
        line += fmt::format(" {}={}", field.key(), value_text(field, Format::Human));
    return line;
}

std::string json_line(const spdlog::log_clock::time_point now, Level level, std::string_view event,
                      Fields fields) {
    const auto since_epoch = now.time_since_epoch();
    const auto milliseconds =
        std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count() % 1000;
    std::string line = fmt::format(R"({{"ts":"{:%Y-%m-%dT%H:%M:%S}.{:03}Z","level":"{}","msg":{})",
                                   fmt::gmtime(spdlog::log_clock::to_time_t(now)), milliseconds,
                                   names(level).json, quoted(event));
    for (const Field& field : fields)
        line += fmt::format(",{}:{}", quoted(field.key()), value_text(field, Format::Json));
    return line + '}';
}

void write(Level level, std::string_view event, Fields fields) {
    const Setup& setup = current();
    if (!setup.logger->should_log(level_of(level))) return;
    const auto now = spdlog::log_clock::now();
    const std::string line = setup.format == Format::Human ? human_line(now, level, event, fields)
                                                           : json_line(now, level, event, fields);
    setup.logger->log(level_of(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

void setup(LogOptions options) { current() = make_setup(std::move(options)); }

void debug(std::string_view event, Fields fields) { write(Level::Debug, event, fields); }
void info(std::string_view event, Fields fields) { write(Level::Info, event, fields); }
void warn(std::string_view event, Fields fields) { write(Level::Warn, event, fields); }
void error(std::string_view event, Fields fields) { write(Level::Error, event, fields); }

}  // namespace fedllm::log
