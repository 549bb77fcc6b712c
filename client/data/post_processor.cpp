#include "client/data/post_processor.hpp"

#include "client/data/normalizer.hpp"

namespace fedllm::client::data {

Result<PostProcessor> PostProcessor::parse(const JsonField& field) {
    PostProcessor result;
    FEDLLM_TRY_VOID(result.parse_into(field, 0));
    return result;
}

Result<void> PostProcessor::parse_into(const JsonField& field, int depth) {
    if (field.is_null()) return {};
    if (depth > kSequenceDepthMax) return field.error("sequences are nested too deeply");
    FEDLLM_TRY(const auto type, field.text("type"));
    if (type == "ByteLevel") return {};  // corrects offsets, which we do not keep
    if (type == "TemplateProcessing") return parse_template(field);
    if (type != "Sequence") {
        return field.unsupported("the post-processor '" + type +
                                 "'; supported are Sequence, ByteLevel and TemplateProcessing");
    }
    FEDLLM_TRY(const auto list, field.array("processors"));
    for (std::size_t i = 0; i < list.value().size(); ++i) {
        FEDLLM_TRY_VOID(parse_into(list.element(i), depth + 1));
    }
    return {};
}

Result<void> PostProcessor::parse_template(const JsonField& field) {
    if (has_template_) return field.unsupported("a second TemplateProcessing; supported is one");
    has_template_ = true;
    FEDLLM_TRY(const auto pieces, field.array("single"));
    bool seen_text = false;
    for (std::size_t i = 0; i < pieces.value().size(); ++i) {
        FEDLLM_TRY_VOID(parse_piece(field, pieces.element(i), seen_text));
    }
    if (!seen_text) return pieces.error("the sequence A does not occur");
    return {};
}

Result<void> PostProcessor::parse_piece(const JsonField& field, const JsonField& piece, bool& seen_text) {
    if (piece.has("Sequence")) {
        FEDLLM_TRY(const auto sequence, piece.object("Sequence"));
        FEDLLM_TRY(const auto id, sequence.text("id"));
        if (id != "A" || seen_text) return sequence.error("expected the sequence A, once");
        seen_text = true;
        return {};
    }
    FEDLLM_TRY(const auto special, piece.object("SpecialToken"));
    FEDLLM_TRY(const auto name, special.text("id"));
    FEDLLM_TRY(const auto table, field.object("special_tokens"));
    FEDLLM_TRY(const auto entry, table.object(name.c_str()));
    FEDLLM_TRY(const auto ids, entry.array("ids"));
    for (std::size_t i = 0; i < ids.value().size(); ++i) {
        FEDLLM_TRY(const auto id, ids.element(i).as_token_id());
        (seen_text ? suffix_ : prefix_).push_back(id);
    }
    return {};
}

}  // namespace fedllm::client::data
