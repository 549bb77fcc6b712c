#include "client/data/decoder.hpp"

#include <optional>
#include <utility>

#include "client/data/byte_level.hpp"
#include "client/data/normalizer.hpp"
#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

constexpr std::size_t kStripMax = 1024;

std::string join(const std::vector<std::string>& tokens, std::string_view between) {
    std::string out;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        if (i > 0) out += between;
        out += tokens[i];
    }
    return out;
}

std::optional<unsigned> hex_digit(char c) {
    if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
    if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
    if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
    return std::nullopt;
}

std::optional<char> byte_of_token(std::string_view token) {  // "<0x0A>"
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
    const auto high = hex_digit(token[3]), low = hex_digit(token[4]);
    if (!high || !low) return std::nullopt;
    return static_cast<char>(static_cast<unsigned char>(*high * 16 + *low));
}

}  // namespace

Result<Decoder> Decoder::parse(const JsonField& field) {
    Decoder decoder;
    decoder.absent_ = field.is_null();
    FEDLLM_TRY_VOID(parse_into(field, 0, decoder.steps_));
    return decoder;
}

Result<void> Decoder::parse_into(const JsonField& field, int depth, std::vector<Step>& steps) {
    if (field.is_null()) return {};
    if (depth > kSequenceDepthMax) return field.error("sequences are nested too deeply");
    FEDLLM_TRY(const auto type, field.text("type"));
    if (type != "Sequence") {
        FEDLLM_TRY(auto step, parse_step(field, type));
        steps.push_back(std::move(step));
        return {};
    }
    FEDLLM_TRY(const auto list, field.array("decoders"));
    for (std::size_t i = 0; i < list.value().size(); ++i) {
        FEDLLM_TRY_VOID(parse_into(list.element(i), depth + 1, steps));
    }
    return {};
}

Result<Decoder::Step> Decoder::parse_step(const JsonField& field, const std::string& type) {
    if (type == "ByteLevel") return Step(ByteLevel{});
    if (type == "ByteFallback") return Step(ByteFallback{});
    if (type == "Fuse") return Step(Fuse{});
    if (type == "Replace") {
        FEDLLM_TRY(auto pattern, parse_literal_pattern(field));
        FEDLLM_TRY(auto content, field.text("content"));
        return Step(Replace{std::move(pattern), std::move(content)});
    }
    if (type == "Strip") {
        FEDLLM_TRY(auto content, field.text("content"));
        FEDLLM_TRY(const auto start, field.token_id("start"));
        FEDLLM_TRY(const auto stop, field.token_id("stop"));
        if (content.empty() || start > static_cast<int>(kStripMax) || stop > static_cast<int>(kStripMax)) {
            return field.error("expected a character and counts up to " + std::to_string(kStripMax));
        }
        return Step(
            Strip{std::move(content), static_cast<std::size_t>(start), static_cast<std::size_t>(stop)});
    }
    if (type == "Metaspace") {
        FEDLLM_TRY(auto replacement, field.text("replacement"));
        FEDLLM_TRY(const bool old_prefix, field.flag_or("add_prefix_space", true));
        FEDLLM_TRY(const auto scheme, field.text_or("prepend_scheme", old_prefix ? "always" : "never"));
        if (replacement.empty()) return field.error("replacement: expected one character");
        return Step(Metaspace{std::move(replacement), scheme != "never"});
    }
    return field.unsupported("the decoder '" + type +
                             "'; supported are Sequence, ByteLevel, ByteFallback, Fuse, "
                             "Replace, Strip and Metaspace");
}

std::string Decoder::apply(std::vector<std::string> tokens) const {
    if (absent_) return join(tokens, " ");
    for (const auto& step : steps_) {
        tokens = std::visit([&](const auto& kind) { return apply(kind, std::move(tokens)); }, step);
    }
    return join(tokens, "");
}

Decoder::Tokens Decoder::apply(const ByteLevel&, Tokens tokens) {
    std::string bytes;
    for (const auto& token : tokens) bytes += from_byte_characters(token);
    return {to_valid_utf8(bytes)};
}

// Runs of byte tokens become text, or one replacement character for each where they are not UTF-8.
Decoder::Tokens Decoder::apply(const ByteFallback&, Tokens tokens) {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
        if (is_valid_utf8(bytes)) {
            if (!bytes.empty()) out.push_back(bytes);
        } else {
            out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
        }
        bytes.clear();
    };
    for (auto& token : tokens) {
        if (const auto byte = byte_of_token(token)) {
            bytes += *byte;
        } else {
            flush();
            out.push_back(std::move(token));
        }
    }
    flush();
    return out;
}

Decoder::Tokens Decoder::apply(const Fuse&, Tokens tokens) { return {join(tokens, "")}; }

Decoder::Tokens Decoder::apply(const Replace& step, Tokens tokens) {
    for (auto& token : tokens) token = replace_all(token, step.pattern, step.content);
    return tokens;
}

Decoder::Tokens Decoder::apply(const Strip& step, Tokens tokens) {
    for (auto& token : tokens) {
        for (std::size_t i = 0; i < step.start && token.starts_with(step.content); ++i) {
            token.erase(0, step.content.size());
        }
        for (std::size_t i = 0; i < step.stop && token.ends_with(step.content); ++i) {
            token.erase(token.size() - step.content.size());
        }
    }
    return tokens;
}

Decoder::Tokens Decoder::apply(const Metaspace& step, Tokens tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = replace_all(tokens[i], step.replacement, i == 0 && step.prefixed ? "" : " ");
    }
    return tokens;
}

}  // namespace fedllm::client::data
