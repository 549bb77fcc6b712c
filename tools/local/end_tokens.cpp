#include "tools/local/end_tokens.hpp"

#include <filesystem>
#include <set>
#include <string>

#include "common/formats/json.hpp"

namespace fedllm::tools::local {

Result<std::vector<std::int32_t>> end_tokens(const Path& model_folder, std::size_t vocab) {
    std::set<std::int32_t> ids;
    for (const char* name : {"generation_config.json", "config.json"}) {
        const Path path = model_folder / name;
        std::error_code ignored;
        if (!std::filesystem::exists(path, ignored)) continue;
        FEDLLM_TRY(const std::string text, read_file(path, std::size_t{1} << 20));
        FEDLLM_TRY(const auto json, formats::parse_json(text, path.string()));
        auto field = json.is_object() ? json.value("eos_token_id", nlohmann::json()) : nlohmann::json();
        if (field.is_null()) continue;
        if (!field.is_array()) field = nlohmann::json::array({field});
        for (const auto& id : field) {
            if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= vocab) {
                return make_error(
                    Errc::InvalidModel,
                    path.string() + ": 'eos_token_id' must hold ids below " + std::to_string(vocab));
            }
            ids.insert(id.get<std::int32_t>());
        }
    }
    return std::vector<std::int32_t>(ids.begin(), ids.end());
}

}  // namespace fedllm::tools::local
