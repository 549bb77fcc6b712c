// Reading config.json field by field. Private to the readers of this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/result.hpp"
#include "common/formats/json.hpp"

namespace fedllm::client::model {

using Json = nlohmann::json;

// Reads one field at a time; every error names the file and the field.
class Fields {
public:
    Fields(const Json& object, std::string source) : object_(object), source_(std::move(source)) {}

    Error error(Errc code, std::string_view key, const std::string& what) const {
        return make_error(code, source_ + ": '" + std::string(key) + "' " + what);
    }
    // Null and absent are the same, as they are to transformers for every field read here but the noted ones.
    const Json* find(const char* key) const {
        const auto found = object_.find(key);
        return found == object_.end() || found->is_null() ? nullptr : &*found;
    }
    // The fields of an object within this one.
    Fields inside(const char* key, const Json& object) const {
        return Fields(object, source_ + ": '" + key + "'");
    }
    bool has_key(const char* key) const { return object_.contains(key); }

    Result<std::size_t> size(const char* key, std::size_t max,
                             std::optional<std::size_t> otherwise = {}) const {
        const Json* value = find(key);
        if (!value && otherwise) return *otherwise;
        if (!value) return error(Errc::InvalidModel, key, "is missing");
        const bool fits = value->is_number_unsigned() && value->get<std::uint64_t>() >= 1 &&
                          value->get<std::uint64_t>() <= max;
        if (fits) return value->get<std::size_t>();
        return error(Errc::InvalidModel, key, "must be a whole number from 1 to " + std::to_string(max));
    }
    // Like size(), from 0; absent and null: `otherwise`.
    Result<std::size_t> count(const char* key, std::size_t max, std::size_t otherwise) const {
        const Json* value = find(key);
        if (!value) return otherwise;
        if (value->is_number_unsigned() && value->get<std::uint64_t>() <= max) {
            return value->get<std::size_t>();
        }
        return error(Errc::InvalidModel, key, "must be a whole number from 0 to " + std::to_string(max));
    }
    Result<double> number(const char* key, double low, double high, double otherwise) const {
        const Json* value = find(key);
        if (!value) return otherwise;
        if (value->is_number() && value->get<double>() >= low && value->get<double>() <= high) {
            return value->get<double>();
        }
        return error(Errc::InvalidModel, key,
                     "must be a number from " + Json(low).dump() + " to " + Json(high).dump());
    }
    Result<bool> flag(const char* key, bool otherwise = false) const {
        const Json* value = find(key);
        if (!value) return otherwise;
        if (value->is_boolean()) return value->get<bool>();
        return error(Errc::InvalidModel, key, "must be true or false");
    }
    // A token id, or the first of a list; absent: `otherwise` if there is such a token; null: none.
    Result<std::optional<std::int32_t>> token(const char* key, std::size_t vocab,
                                              std::optional<std::int32_t> otherwise) const {
        const bool known = otherwise && static_cast<std::size_t>(*otherwise) < vocab;
        if (!has_key(key)) return known ? otherwise : std::nullopt;
        const Json* value = find(key);
        if (value && value->is_array()) value = value->empty() ? nullptr : &value->front();
        if (!value) return std::optional<std::int32_t>();
        if (value->is_number_unsigned() && value->get<std::uint64_t>() < vocab) {
            return std::optional<std::int32_t>(value->get<std::int32_t>());
        }
        return error(Errc::InvalidModel, key, "must be a token id below vocab_size, or a list of them");
    }

private:
    const Json& object_;
    std::string source_;
};

}  // namespace fedllm::client::model
