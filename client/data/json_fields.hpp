// Strict reading of a JSON object's fields: every complaint names the path of the field and what was
// expected.
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/result.hpp"

namespace fedllm::client::data {

using Json = nlohmann::json;

// A value and the path that leads to it ("model.vocab"). Borrows the value.
class JsonField {
public:
    JsonField(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

    const Json& value() const { return *value_; }
    const std::string& path() const { return path_; }
    bool is_null() const { return value_->is_null(); }
    bool has(const char* key) const;  // an object with this key, whose value is not null

    Result<JsonField> object(const char* key) const;
    Result<JsonField> array(const char* key) const;
    Result<std::string> text(const char* key) const;
    Result<std::string> text_or(const char* key, std::string fallback) const;
    Result<bool> flag_or(const char* key, bool fallback) const;
    Result<std::int32_t> token_id(const char* key) const;  // 0 .. kTokenIdMax

    JsonField element(std::size_t index) const;       // of an array
    JsonField member_or_null(const char* key) const;  // of an object; a null where it is absent

    Result<std::string> as_text() const;
    Result<std::int32_t> as_token_id() const;
    Error error(const std::string& what) const;        // InvalidFile "path: what"
    Error unsupported(const std::string& what) const;  // Unsupported "path: what"

private:
    Result<JsonField> member(const char* key) const;

    const Json* value_;
    std::string path_;
};

// Far above any vocabulary; keeps tables that are indexed by id small.
inline constexpr std::int32_t kTokenIdMax = 4'000'000;

// Parses text; the error says line and column. Invalid UTF-8 is an error too.
Result<Json> parse_json(std::string_view text);
// The same for one line of JSONL: the error begins "place:column: ".
Result<Json> parse_json_line(std::string_view line, const std::string& place);

}  // namespace fedllm::client::data
