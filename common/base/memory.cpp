#include "common/base/memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

namespace fedllm {
namespace {

// Not read_file(): these files have no size.
std::string text_of(const Path& path) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

// The number behind `key`; nothing is read as 0, and so is "max".
std::size_t number_after(const std::string& text, const std::string& key) {
    const auto at = text.find(key);
    if (at == std::string::npos) return 0;
    const auto digits = text.find_first_not_of(" \t", at + key.size());
    if (digits == std::string::npos) return 0;
    std::size_t value = 0;
    std::from_chars(text.data() + digits, text.data() + text.size(), value);
    return value;
}

// What version 2 control groups leave, from ours up to the root; the most a number holds where none limits.
std::size_t left_by_control_groups(const Path& proc, const Path& groups) {
    auto left = static_cast<std::size_t>(-1);
    const std::string line = text_of(proc / "self/cgroup");
    const auto at = line.find("0::/");
    if (at == std::string::npos) return left;
    Path group = groups / line.substr(at + 4, line.find('\n', at) - at - 4);
    for (; group.string().size() > groups.string().size(); group = group.parent_path()) {
        const std::size_t limit = number_after(text_of(group / "memory.max"), "");
        const std::size_t held = number_after(text_of(group / "memory.current"), "");
        const std::size_t cache = number_after(text_of(group / "memory.stat"), "\nfile ");
        if (limit > 0) left = std::min(left, limit - std::min(limit, held - std::min(held, cache)));
    }
    return left;
}

}  // namespace

std::size_t memory_limit(const Path& proc, const Path& groups) {
    constexpr std::size_t kKib = 1024;
    const std::size_t available = kKib * number_after(text_of(proc / "meminfo"), "MemAvailable:");
    if (available == 0) return 0;
    const std::size_t own = kKib * number_after(text_of(proc / "self/status"), "RssAnon:");
    return own + std::min(available, left_by_control_groups(proc, groups));
}

std::size_t resident_memory() {
    std::ifstream statm("/proc/self/statm");
    std::size_t pages_total = 0, pages_resident = 0;
    statm >> pages_total >> pages_resident;
    return pages_resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace fedllm
