#include "common/hub/cache.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <optional>

namespace fedllm::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPartBytesMax = 96;

bool is_part(std::string_view part) {
    if (part.empty() || part.size() > kPartBytesMax) return false;
    const auto edge = [](char c) { return c == '-' || c == '.'; };
    if (edge(part.front()) || edge(part.back())) return false;
    if (part.find("--") != part.npos || part.find("..") != part.npos) return false;
    return std::all_of(part.begin(), part.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
    });
}

std::optional<Path> from_environment(const char* name) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return Path(value);
}

bool is_there(const Path& path) {
    std::error_code ignored;
    return fs::exists(path, ignored);
}

// The commit that refs/main names, where its snapshot is there.
std::optional<Path> snapshot_of_main(const Path& model) {
    const auto text = read_file(model / "refs" / "main", 256);
    if (!text) return std::nullopt;
    const std::string commit = text->substr(0, text->find_last_not_of(" \r\n") + 1);
    const bool plain =
        std::all_of(commit.begin(), commit.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
    if (commit.empty() || !plain || !is_there(model / "snapshots" / commit)) return std::nullopt;
    return model / "snapshots" / commit;
}

}  // namespace

bool is_model_id(std::string_view text) {
    const auto slash = text.find('/');
    return slash != text.npos && is_part(text.substr(0, slash)) && is_part(text.substr(slash + 1));
}

Path cache_root() {
    for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
        if (const auto root = from_environment(name)) return *root;
    }
    if (const auto home = from_environment("HF_HOME")) return *home / "hub";
    if (const auto cache = from_environment("XDG_CACHE_HOME")) return *cache / "huggingface" / "hub";
    return from_environment("HOME").value_or(".") / ".cache" / "huggingface" / "hub";
}

Path model_cache(const Path& root, std::string_view id) {
    std::string name = "models--" + std::string(id);
    name.replace(name.find('/'), 1, "--");
    return root / name;
}

Result<Path> newest_snapshot(const Path& root, std::string_view id) {
    const Path model = model_cache(root, id);
    if (auto main = snapshot_of_main(model)) return *std::move(main);
    std::optional<Path> newest;
    fs::file_time_type newest_time;
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(model / "snapshots", code)) {
        const auto time = entry.last_write_time(code);
        if (code || !is_there(entry.path() / "config.json")) continue;
        if (newest && time <= newest_time) continue;
        newest = entry.path();
        newest_time = time;
    }
    if (newest) return *std::move(newest);
    return make_error(Errc::NotFound, "the cache " + root.string() + " has no model " + std::string(id) +
                                          "; fetch it with 'fedllm pull " + std::string(id) + "'");
}

Result<Path> find_model(const Path& folder_or_id) {
    const std::string name = folder_or_id.string();
    if (is_there(folder_or_id) || !is_model_id(name)) return folder_or_id;
    auto snapshot = newest_snapshot(cache_root(), name);
    if (!snapshot) return with_context(snapshot.error(), "there is no folder " + name);
    return snapshot;
}

}  // namespace fedllm::hub
