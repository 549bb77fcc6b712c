#include "client/data/json_fields.hpp"

#include <algorithm>
#include <cstddef>
#include <variant>

namespace fedllm::client::data {

bool JsonField::has(const char* key) const {
    const auto found = value_->is_object() ? value_->find(key) : value_->end();
    return found != value_->end() && !found->is_null();
}

Result<JsonField> JsonField::member(const char* key) const {
    if (!value_->is_object()) return error("expected an object, found " + std::string(value_->type_name()));
    const auto found = value_->find(key);
    if (found == value_->end()) return error("the field '" + std::string(key) + "' is missing");
    return JsonField(*found, path_.empty() ? key : path_ + "." + key);
}

Result<JsonField> JsonField::object(const char* key) const {
    FEDLLM_TRY(auto field, member(key));
    if (!field.value().is_object()) {
        return field.error("expected an object, found " + std::string(field.value().type_name()));
    }
    return field;
}

Result<JsonField> JsonField::array(const char* key) const {
    FEDLLM_TRY(auto field, member(key));
    if (!field.value().is_array()) {
        return field.error("expected an array, found " + std::string(field.value().type_name()));
    }
    return field;
}

Result<std::string> JsonField::text(const char* key) const {
    FEDLLM_TRY(const auto field, member(key));
    return field.as_text();
}

Result<std::string> JsonField::text_or(const char* key, std::string fallback) const {
    return has(key) ? text(key) : Result<std::string>(std::move(fallback));
}

Result<bool> JsonField::flag_or(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    FEDLLM_TRY(const auto field, member(key));
    if (!field.value().is_boolean()) {
        return field.error("expected true or false, found " + std::string(field.value().type_name()));
    }
    return field.value().get<bool>();
}

Result<std::int32_t> JsonField::token_id(const char* key) const {
    FEDLLM_TRY(const auto field, member(key));
    return field.as_token_id();
}

JsonField JsonField::element(std::size_t index) const {
    return JsonField((*value_)[index], path_ + "[" + std::to_string(index) + "]");
}

JsonField JsonField::member_or_null(const char* key) const {
    static const Json null;
    if (!has(key)) return JsonField(null, path_.empty() ? key : path_ + "." + key);
    return JsonField(*value_->find(key), path_.empty() ? key : path_ + "." + key);
}

Result<std::string> JsonField::as_text() const {
    if (!value_->is_string()) return error("expected a string, found " + std::string(value_->type_name()));
    return value_->get<std::string>();
}

Result<std::int32_t> JsonField::as_token_id() const {
    if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() > std::uint64_t{kTokenIdMax}) {
        return error("expected a token id from 0 to " + std::to_string(kTokenIdMax) + ", found " +
                     value_->dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 40));
    }
    return static_cast<std::int32_t>(value_->get<std::uint64_t>());
}

Error JsonField::error(const std::string& what) const {
    return make_error(Errc::InvalidFile, (path_.empty() ? "top level" : path_) + ": " + what);
}

Error JsonField::unsupported(const std::string& what) const {
    return make_error(Errc::Unsupported, (path_.empty() ? "top level" : path_) + ": " + what);
}

namespace {

// The document, or the offset of the first byte that breaks it. The library reports a broken text by an
// exception; this is where it becomes a value.
std::variant<Json, std::size_t> parse_or_offset(std::string_view text) {
    try {
        return Json::parse(text.begin(), text.end());
    } catch (const Json::parse_error& failure) {
        return std::min(failure.byte > 0 ? failure.byte - 1 : 0, text.size());
    } catch (const Json::exception&) {  // a number that no double holds: it does not say where
        return std::size_t{0};
    }
}

}  // namespace

Result<Json> parse_json(std::string_view text) {
    auto parsed = parse_or_offset(text);
    if (auto* json = std::get_if<Json>(&parsed)) return std::move(*json);
    const std::size_t at = std::get<std::size_t>(parsed);
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    const std::size_t newline = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
    const std::size_t column = newline == std::string_view::npos ? at + 1 : at - newline;
    return make_error(Errc::InvalidFile, "line " + std::to_string(line) + ", column " +
                                             std::to_string(column) + ": not valid JSON in UTF-8");
}

Result<Json> parse_json_line(std::string_view line, const std::string& place) {
    auto parsed = parse_or_offset(line);
    if (auto* json = std::get_if<Json>(&parsed)) return std::move(*json);
    return make_error(Errc::InvalidData, place + ":" + std::to_string(std::get<std::size_t>(parsed) + 1) +
                                             ": not valid JSON in UTF-8; expected one object per line");
}

}  // namespace fedllm::client::data
