// The "log" section of both daemons' configuration files.
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "common/config/yaml.hpp"
#include "common/log/log.hpp"

template <>
struct fedllm::config::EnumNames<fedllm::log::Format> {
    static constexpr std::array<std::pair<log::Format, std::string_view>, 2> rows{
        {{log::Format::Human, "human"}, {log::Format::Json, "json"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::log::Level> {
    static constexpr std::array<std::pair<log::Level, std::string_view>, 4> rows{
        {{log::Level::Debug, "debug"},
         {log::Level::Info, "info"},
         {log::Level::Warn, "warn"},
         {log::Level::Error, "error"}}};
};

namespace fedllm::service {

struct LogConfig {
    log::Format format = log::Format::Human;
    log::Level level = log::Level::Info;
    bool operator==(const LogConfig&) const = default;
};

inline config::Table<LogConfig> log_table() {
    using C = LogConfig;
    return {config::field<C>(
                "format", [](auto& c) -> auto& { return c.format; }, "lines for people, or json objects"),
            config::field<C>(
                "level", [](auto& c) -> auto& { return c.level; }, "the least important lines to print")};
}

}  // namespace fedllm::service
