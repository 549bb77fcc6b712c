#include "tools/world/trace.hpp"

#include <algorithm>
#include <cstdio>

namespace fedllm::tools::world {

std::string_view name(Trouble trouble) {
    static constexpr std::array<std::string_view, kTroubles> kNames{
        "delay",       "loss",        "refused",     "reset",       "half open",         "silence",
        "late bytes",  "partition",   "server kill", "client kill", "server power loss", "client power loss",
        "server stop", "torn write",  "lost write",  "disk error",  "disk full",         "upload waits",
        "job paused",  "job resumed", "job stopped", "stale update"};
    return kNames[static_cast<std::size_t>(trouble)];
}

namespace {

// Names of temporary files carry the real process's id, which is another in each run.
std::string without_process_id(std::string_view text) {
    constexpr std::string_view kMark = ".tmp";
    const auto at = text.find(kMark);
    if (at == std::string_view::npos) return std::string(text);
    const auto end = std::min(text.find_first_not_of("0123456789", at + kMark.size()), text.size());
    return std::string(text.substr(0, at + kMark.size())).append(text.substr(end));
}

}  // namespace

void Trace::say(std::string_view who, std::string_view what) {
    char time[32];
    const double seconds = std::chrono::duration<double>(time_.now().time_since_epoch()).count();
    std::snprintf(time, sizeof time, "%12.6f ", seconds);
    std::string line(time);
    line.append(who).append(": ").append(without_process_id(what));
    for (const char c : line) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    if (sink_) sink_(line);
}

}  // namespace fedllm::tools::world
