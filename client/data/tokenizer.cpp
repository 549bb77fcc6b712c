#include "client/data/tokenizer.hpp"

#include <algorithm>
#include <utility>

#include "client/data/json_fields.hpp"
#include "client/data/tokenizer_parts.hpp"
#include "client/data/unicode.hpp"

namespace fedllm::client::data {

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {
    const auto& around = parts_->post_processor;
    if (!around.prefix().empty()) bos_ = around.prefix().front();
    if (!around.suffix().empty()) eos_ = around.suffix().back();
}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::parse(std::string_view text) {
    FEDLLM_TRY(const Json json, parse_json(text));
    const JsonField root(json, "");
    FEDLLM_TRY(const auto model_field, root.object("model"));
    FEDLLM_TRY(auto model, BpeModel::parse(model_field));
    FEDLLM_TRY(auto normalizer, Normalizer::parse(root.member_or_null("normalizer")));
    FEDLLM_TRY(auto pre_tokenizer, PreTokenizer::parse(root.member_or_null("pre_tokenizer")));
    FEDLLM_TRY(auto post_processor, PostProcessor::parse(root.member_or_null("post_processor")));
    FEDLLM_TRY(auto decoder, Decoder::parse(root.member_or_null("decoder")));
    FEDLLM_TRY(auto added, AddedTokens::parse(root.member_or_null("added_tokens"), model, normalizer));
    auto parts =
        std::make_unique<const Parts>(Parts{std::move(added), std::move(normalizer), std::move(pre_tokenizer),
                                            std::move(model), std::move(post_processor), std::move(decoder)});
    for (const auto* ids : {&parts->post_processor.prefix(), &parts->post_processor.suffix()}) {
        for (const std::int32_t id : *ids) {
            if (!parts->token_of(id)) {
                return make_error(Errc::InvalidFile,
                                  "post_processor: the id " + std::to_string(id) + " is no token's");
            }
        }
    }
    return Tokenizer(std::move(parts));
}

Result<Tokenizer> Tokenizer::load(const Path& path) {
    FEDLLM_TRY(const auto text, read_file(path));
    auto tokenizer = parse(text);
    if (!tokenizer) return with_context(tokenizer.error(), path.string());
    return tokenizer;
}

Result<Tokenizer> Tokenizer::load_folder(const Path& folder) {
    FEDLLM_TRY(auto tokenizer, load(folder / "tokenizer.json"));
    FEDLLM_TRY_VOID(tokenizer.read_special_tokens(folder));
    auto chat = ChatTemplate::load_folder(folder);
    if (!chat)
        tokenizer.chat_template_ = std::make_unique<const Result<ChatTemplate>>(chat.error());
    else if (*chat)
        tokenizer.chat_template_ = std::make_unique<const Result<ChatTemplate>>(std::move(**chat));
    return tokenizer;
}

namespace {

// A JSON object beside the tokenizer, or null where the file is absent.
Result<Json> read_companion(const Path& path) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return Json();
    FEDLLM_TRY(const auto text, read_file(path));
    auto json = parse_json(text);
    if (!json) return with_context(json.error(), path.string());
    if (!json->is_object()) return make_error(Errc::InvalidFile, path.string() + ": expected an object");
    return json;
}

// "bos_token": "<s>" or {"content": "<s>", ...}.
Result<std::optional<std::int32_t>> named_token(const Tokenizer& tokenizer, const JsonField& config,
                                                const char* key) {
    if (!config.has(key)) return std::optional<std::int32_t>();
    const JsonField field = config.member_or_null(key);
    FEDLLM_TRY(const auto name, field.value().is_object() ? field.text("content") : field.as_text());
    const auto id = tokenizer.id_of(name);
    if (!id)
        return make_error(Errc::InvalidModel, std::string(key) + ": '" + name + "' is not in tokenizer.json");
    return id;
}

// "eos_token_id": 2 or [2, 5], of which the first counts.
Result<std::optional<std::int32_t>> numbered_token(const Tokenizer& tokenizer, const JsonField& config,
                                                   const char* key) {
    const JsonField field = config.member_or_null(key);
    if (field.is_null() || (field.value().is_array() && field.value().empty())) {
        return std::optional<std::int32_t>();
    }
    FEDLLM_TRY(const auto id, (field.value().is_array() ? field.element(0) : field).as_token_id());
    if (static_cast<std::size_t>(id) >= tokenizer.vocab_size()) {
        return make_error(Errc::InvalidModel, std::string(key) + ": " + std::to_string(id) +
                                                  " is beyond the " + std::to_string(tokenizer.vocab_size()) +
                                                  " ids of tokenizer.json");
    }
    return std::optional(id);
}

}  // namespace

Result<void> Tokenizer::read_special_tokens(const Path& folder) {
    FEDLLM_TRY(const Json names, read_companion(folder / "tokenizer_config.json"));
    FEDLLM_TRY(const Json numbers, read_companion(folder / "config.json"));
    const auto read = [&](const char* name, const char* number,
                          std::optional<std::int32_t>& out) -> Result<void> {
        auto found = named_token(*this, JsonField(names, ""), name);
        if (!found) return with_context(found.error(), (folder / "tokenizer_config.json").string());
        if (!*found) {
            found = numbered_token(*this, JsonField(numbers, ""), number);
            if (!found) return with_context(found.error(), (folder / "config.json").string());
        }
        if (*found) out = *found;
        return {};
    };
    FEDLLM_TRY_VOID(read("bos_token", "bos_token_id", bos_));
    return read("eos_token", "eos_token_id", eos_);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, AddSpecial add) const {
    std::string repaired;
    if (!is_valid_utf8(text)) {
        repaired = to_valid_utf8(text);
        text = repaired;
    }
    std::vector<std::int32_t> out;
    const auto& around = parts_->post_processor;
    if (add == AddSpecial::Yes) out = around.prefix();
    for (const auto& part : parts_->added.split(text, AddedTokens::Stage::BeforeNormalizing)) {
        if (part.token) {
            out.push_back(*part.token);
        } else {
            encode_piece(text.substr(part.begin, part.end - part.begin), part.begin == 0, out);
        }
    }
    if (add == AddSpecial::Yes) out.insert(out.end(), around.suffix().begin(), around.suffix().end());
    return out;
}

void Tokenizer::encode_piece(std::string_view text, bool at_start, std::vector<std::int32_t>& out) const {
    const std::string normal = parts_->normalizer.apply(text);
    for (const auto& part : parts_->added.split(normal, AddedTokens::Stage::AfterNormalizing)) {
        if (part.token) {
            out.push_back(*part.token);
            continue;
        }
        for (const auto& word : parts_->pre_tokenizer.apply(normal.substr(part.begin, part.end - part.begin),
                                                            at_start && part.begin == 0)) {
            parts_->model.encode_word(word, out);
        }
    }
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
    std::vector<std::string> tokens;
    for (const std::int32_t id : ids) {
        const std::string* token = parts_->token_of(id);
        if (token && !parts_->added.is_special(id)) tokens.push_back(*token);
    }
    return parts_->decoder.apply(std::move(tokens));
}

std::size_t Tokenizer::vocab_size() const {
    return std::max(parts_->model.id_limit(), parts_->added.id_limit());
}

std::optional<std::int32_t> Tokenizer::id_of(std::string_view token) const {
    const auto added = parts_->added.id_of(token);
    return added ? added : parts_->model.id_of(token);
}

}  // namespace fedllm::client::data
