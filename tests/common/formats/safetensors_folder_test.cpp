#include <gtest/gtest.h>

#include <array>

#include "common/formats/safetensors.hpp"
#include "tests/support/safetensors_bytes.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::formats {
namespace {

using tensor::DType;
using test::TempDir;
using test::write_bytes;

const std::array<float, 2> kValues{1.0F, 2.0F};

void write_shard(const Path& path, const std::vector<std::string>& names) {
    std::vector<TensorToWrite> tensors;
    for (const std::string& name : names) {
        tensors.push_back({name, DType::F32, {2}, std::as_bytes(std::span(kValues))});
    }
    write_safetensors(path, tensors).value();
}

constexpr const char* kIndex = "model.safetensors.index.json";

// Two shards, a and b in the first, c in the second, under the index given.
Result<SafetensorsFolder> open_sharded(const TempDir& folder, const std::string& index) {
    write_shard(folder.path() / "model-1.safetensors", {"a", "b"});
    write_shard(folder.path() / "model-2.safetensors", {"c"});
    write_bytes(folder.path() / kIndex, index);
    return SafetensorsFolder::open(folder.path());
}

TEST(SafetensorsFolder, OpensASingleFile) {
    const TempDir folder;
    write_shard(folder.path() / "model.safetensors", {"a", "b"});
    const auto opened = SafetensorsFolder::open(folder.path()).value();
    EXPECT_EQ(opened.tensor_count(), 2u);
    EXPECT_NE(opened.find("a"), nullptr);
    EXPECT_EQ(opened.find("c"), nullptr);
    EXPECT_EQ(opened.file_of("b"), (folder.path() / "model.safetensors").string());
}

TEST(SafetensorsFolder, FindsTensorsOfAllShards) {
    const TempDir folder;
    auto opened = open_sharded(folder, R"({"metadata": {"total_size": 24}, "weight_map":
        {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}})");
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    const SafetensorsFolder moved = *std::move(opened);
    EXPECT_EQ(moved.tensor_count(), 3u);
    EXPECT_EQ(read_floats(*moved.find("c")).value(), (std::vector<float>{1.0F, 2.0F}));
    EXPECT_EQ(moved.file_of("c"), (folder.path() / "model-2.safetensors").string());
}

TEST(SafetensorsFolder, RefusesAnIndexThatDoesNotFit) {
    struct Case {
        std::string map;
        Errc code;
        std::string words;
    };
    const std::string one = R"("a": "model-1.safetensors", "b": "model-1.safetensors")";
    const std::string all = one + R"(, "c": "model-2.safetensors")";
    const std::vector<Case> cases{
        {"", Errc::InvalidFile, "0 tensors"},
        {all + R"(, "d": "model-2.safetensors")", Errc::InvalidFile, "'d' is missing"},
        {one, Errc::InvalidFile, ""},  // never opens the second shard: see below
        {R"("a": "model-1.safetensors", "c": "model-2.safetensors")", Errc::InvalidFile, "'b'"},
        {R"("a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors")",
         Errc::InvalidFile, "'a'"},
        {one + R"(, "c": "model-3.safetensors")", Errc::NotFound, "model-3.safetensors"},
        {one + R"(, "c": "../model-2.safetensors")", Errc::InvalidFile, "path separators"},
        {one + R"(, "c": "/etc/x.safetensors")", Errc::InvalidFile, "path separators"},
        {one + R"(, "c": "..\\x.safetensors")", Errc::InvalidFile, "path separators"},
        {one + R"(, "c": "..safetensors")", Errc::InvalidFile, "path separators"},
        {one + R"(, "c": "x\u0000.safetensors")", Errc::InvalidFile, "path separators"},
        {one + R"(, "c": "config.json")", Errc::InvalidFile, "path separators"},
        {one + R"(, "c": 2)", Errc::InvalidFile, "path separators"},
        {one + R"(, "a": "model-1.safetensors")", Errc::InvalidFile, "'a' appears twice"}};
    for (const Case& broken : cases) {
        const TempDir folder;
        const auto opened = open_sharded(folder, "{\"weight_map\": {" + broken.map + "}}");
        if (broken.words.empty()) {  // a shard that no tensor names is not part of the model
            EXPECT_TRUE(opened.has_value()) << broken.map;
            continue;
        }
        ASSERT_FALSE(opened.has_value()) << broken.map;
        EXPECT_EQ(opened.error().code, broken.code) << opened.error().message;
        EXPECT_TRUE(opened.error().message.starts_with(folder.path().string())) << opened.error().message;
        EXPECT_NE(opened.error().message.find(broken.words), std::string::npos) << opened.error().message;
    }
}

TEST(SafetensorsFolder, RefusesAnIndexOfTheWrongForm) {
    for (const char* index : {"", "[]", "{}", R"({"weight_map": []})", "{\"weight_map\""}) {
        const TempDir folder;
        const auto opened = open_sharded(folder, index);
        ASSERT_FALSE(opened.has_value()) << index;
        EXPECT_EQ(opened.error().code, Errc::InvalidFile);
        EXPECT_NE(opened.error().message.find(kIndex), std::string::npos) << opened.error().message;
    }
}

TEST(SafetensorsFolder, SaysWhatIsMissingInAnEmptyFolder) {
    const TempDir folder;
    const auto opened = SafetensorsFolder::open(folder.path());
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(opened.error().code, Errc::NotFound);
    EXPECT_NE(opened.error().message.find("model.safetensors"), std::string::npos);
}

}  // namespace
}  // namespace fedllm::formats
