// Shared by the tests of client/data.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "client/data/tokenizer.hpp"
#include "common/base/files.hpp"

namespace fedllm::client::data::testing {

inline Path assets() {
    const char* folder = std::getenv("FEDLLM_ASSETS");
    return folder ? Path(folder) : Path("../shared/assets");
}

inline Path golden() { return "tests/client/data/golden"; }

inline constexpr std::int32_t kBos = 256;
inline constexpr std::int32_t kEos = 257;

// A tokenizer.json whose ids are the bytes of the text, with <s> and </s> around it.
inline nlohmann::json byte_tokenizer_json() {
    nlohmann::json vocabulary;
    for (int byte = 0; byte < 256; ++byte) {
        char token[8];
        std::snprintf(token, sizeof token, "<0x%02X>", byte);
        vocabulary[token] = byte;
    }
    const auto special = [](const char* content, int id) {
        return nlohmann::json{{"id", id}, {"content", content}, {"special", true}, {"normalized", false}};
    };
    const auto piece = [](const char* content) {
        return nlohmann::json{{"SpecialToken", {{"id", content}}}};
    };
    return {{"added_tokens", {special("<s>", kBos), special("</s>", kEos)}},
            {"normalizer", nullptr},
            {"pre_tokenizer", nullptr},
            {"post_processor",
             {{"type", "TemplateProcessing"},
              {"single", {piece("<s>"), {{"Sequence", {{"id", "A"}}}}, piece("</s>")}},
              {"special_tokens", {{"<s>", {{"ids", {kBos}}}}, {"</s>", {{"ids", {kEos}}}}}}}},
            {"decoder", {{"type", "ByteFallback"}}},
            {"model",
             {{"type", "BPE"},
              {"byte_fallback", true},
              {"vocab", vocabulary},
              {"merges", nlohmann::json::array()}}}};
}

inline Tokenizer byte_tokenizer() { return Tokenizer::parse(byte_tokenizer_json().dump()).value(); }

inline std::vector<std::int32_t> bytes_of(std::string_view text) {
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
}

// A folder that is gone when the test is.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = ::testing::TempDir() + "fedllm-data-XXXXXX";
        path_ = ::mkdtemp(pattern.data());
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    Path write(const std::string& name, std::string_view content) const {
        const Path path = path_ / name;
        EXPECT_TRUE(write_file_atomically(path, content).has_value());
        return path;
    }
    const Path& path() const { return path_; }

private:
    Path path_;
};

}  // namespace fedllm::client::data::testing
