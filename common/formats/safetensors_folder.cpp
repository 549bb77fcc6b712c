#include <filesystem>
#include <set>

#include "common/formats/json.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::formats {
namespace {

using WeightMap = std::map<std::string, std::string>;  // tensor -> shard

// A shard is a plain file name in the same folder: an index may not point anywhere else on the disk.
bool is_shard_name(std::string_view name) {
    return name.ends_with(".safetensors") && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos &&
           name.find("..") == name.npos;
}

Result<WeightMap> read_weight_map(const Path& path) {
    FEDLLM_TRY(const std::string text, read_file(path));
    FEDLLM_TRY(const nlohmann::json index, parse_json(text, path.string()));
    const auto fail = [&](const std::string& what) {
        return make_error(Errc::InvalidFile, path.string() + ": " + what);
    };
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
        return fail("needs an object 'weight_map' from tensor names to shard files");
    }
    const auto& entries = index["weight_map"];
    if (entries.empty() || entries.size() > kTensorsMax) {
        return fail("'weight_map' has " + std::to_string(entries.size()) + " tensors, 1 to " +
                    std::to_string(kTensorsMax) + " are read");
    }
    WeightMap weight_map;
    for (const auto& [tensor, shard] : entries.items()) {
        if (!shard.is_string() || !is_shard_name(shard.get_ref<const std::string&>())) {
            return fail("tensor " + in_quotes(tensor) +
                        ": its shard must be a .safetensors file name without path separators or '..'");
        }
        weight_map.emplace(tensor, shard.get<std::string>());
    }
    return weight_map;
}

// Every tensor lies in the shard the index says, and no shard holds one that the index leaves out.
Result<void> check_shard(const Path& index, const WeightMap& weight_map, const SafetensorsFile& shard) {
    const std::string name = shard.path().filename().string();
    for (const TensorInfo& tensor : shard.tensors()) {
        const auto found = weight_map.find(tensor.name);
        if (found != weight_map.end() && found->second == name) continue;
        return make_error(Errc::InvalidFile, index.string() + ": shard " + name + " holds tensor " +
                                                 in_quotes(tensor.name) +
                                                 ", which the index does not place there");
    }
    return {};
}

}  // namespace

Result<void> SafetensorsFolder::add(SafetensorsFile file) {
    for (const TensorInfo& tensor : file.tensors()) {
        if (!index_.emplace(tensor.name, &tensor)
                 .second) {  // the vector's elements do not move with the file
            return make_error(Errc::InvalidFile, file.path().string() + ": tensor " + in_quotes(tensor.name) +
                                                     " is also in another shard");
        }
    }
    files_.push_back(std::move(file));
    return {};
}

Result<SafetensorsFolder> SafetensorsFolder::open(const Path& folder) {
    SafetensorsFolder result;
    std::error_code ignored;  // an unreadable folder surfaces as NotFound just below
    const Path single = folder / "model.safetensors";
    const Path index = folder / "model.safetensors.index.json";
    if (std::filesystem::exists(single, ignored)) {
        FEDLLM_TRY(SafetensorsFile file, SafetensorsFile::open(single));
        FEDLLM_TRY_VOID(result.add(std::move(file)));
        return result;
    }
    if (!std::filesystem::exists(index, ignored)) {
        return make_error(Errc::NotFound,
                          folder.string() +
                              ": no model.safetensors and no model.safetensors.index.json; weights in "
                              "other formats (.bin, .gguf) have to be converted to safetensors");
    }
    FEDLLM_TRY(const WeightMap weight_map, read_weight_map(index));
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : weight_map) shards.insert(shard);
    for (const std::string& shard : shards) {
        FEDLLM_TRY(SafetensorsFile file, SafetensorsFile::open(folder / shard));
        FEDLLM_TRY_VOID(check_shard(index, weight_map, file));
        FEDLLM_TRY_VOID(result.add(std::move(file)));
    }
    for (const auto& [tensor, shard] : weight_map) {
        if (result.find(tensor)) continue;
        return make_error(Errc::InvalidFile, (folder / shard).string() + ": tensor " + in_quotes(tensor) +
                                                 " is missing, which " + index.filename().string() +
                                                 " places there");
    }
    return result;
}

const TensorInfo* SafetensorsFolder::find(std::string_view name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : found->second;
}

std::string SafetensorsFolder::file_of(std::string_view name) const {
    for (const SafetensorsFile& file : files_) {
        if (file.find(name)) return file.path().string();
    }
    return "";
}

}  // namespace fedllm::formats
