// Encoding of a text of which parts are marked: which tokens lie in them.
//
// Between added tokens a text is normalized and turned into words before BPE cuts it, and lengths change on
// the way (a space becomes three bytes). But the words, one behind the other, of a text's begin are the begin
// of the whole text's words. So a place in the text is found among the tokens by how long the words before it
// are.
#include <algorithm>
#include <utility>

#include "client/data/tokenizer_parts.hpp"
#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

struct Extent {  // of a token, in bytes of the words
    std::size_t begin;
    std::size_t end;
};

bool overlaps(const jinja::Span& span, std::size_t begin, std::size_t end) {
    return begin < span.end && end > span.begin;
}

std::size_t written_length(const std::string& token) {
    return token.size() == 6 && token.starts_with("<0x") && token.back() == '>' ? 1 : token.size();
}

// The extents of one word's tokens. Where they do not add up, as with unknown characters, each is the whole
// word's.
void append_extents(const BpeModel& model, std::span<const std::int32_t> ids, std::size_t begin,
                    std::size_t length, std::vector<Extent>& out) {
    const std::size_t first = out.size();
    std::size_t at = begin;
    for (const std::int32_t id : ids) {
        const std::size_t next = at + written_length(*model.token_of(id));
        out.push_back({at, next});
        at = next;
    }
    if (at == begin + length) return;
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(), Extent{begin, begin + length});
}

}  // namespace

// Visits the words and added tokens of a piece of text: word(text) and token(id, length).
template <class Word, class Token>
void Tokenizer::for_each_word(std::string_view piece, bool at_start, Word word, Token token) const {
    const std::string normal = parts_->normalizer.apply(piece);
    for (const auto& part : parts_->added.split(normal, AddedTokens::Stage::AfterNormalizing)) {
        if (part.token) {
            token(*part.token, part.end - part.begin);
            continue;
        }
        const bool first = at_start && part.begin == 0;
        for (const auto& text :
             parts_->pre_tokenizer.apply(normal.substr(part.begin, part.end - part.begin), first)) {
            word(text);
        }
    }
}

std::size_t Tokenizer::words_length(std::string_view piece, bool at_start) const {
    std::size_t length = 0;
    for_each_word(
        piece, at_start, [&](const std::string& word) { length += word.size(); },
        [&](std::int32_t, std::size_t token) { length += token; });
    return length;
}

// One piece between added tokens: [begin, end) of the text. The spans overlap it.
void Tokenizer::encode_marked_piece(std::string_view text, std::size_t begin, std::size_t end,
                                    std::span<const jinja::Span> spans, MarkedIds& out) const {
    const std::string_view piece = text.substr(begin, end - begin);
    std::vector<Extent> extents;
    std::size_t at = 0;
    for_each_word(
        piece, begin == 0,
        [&](const std::string& word) {
            const std::size_t first = out.ids.size();
            parts_->model.encode_word(word, out.ids);
            append_extents(parts_->model, std::span(out.ids).subspan(first), at, word.size(), extents);
            at += word.size();
        },
        [&](std::int32_t token, std::size_t length) {
            out.ids.push_back(token);
            extents.push_back({at, at + length});
            at += length;
        });
    std::vector<bool> marks(extents.size(), false);
    for (const auto& span : spans) {
        const auto place = [&](std::size_t byte) {
            if (byte <= begin) return std::size_t{0};
            return byte >= end ? at : words_length(piece.substr(0, byte - begin), begin == 0);
        };
        const jinja::Span words{place(span.begin), place(span.end)};
        for (std::size_t i = 0; i < extents.size(); ++i) {
            if (overlaps(words, extents[i].begin, extents[i].end)) marks[i] = true;
        }
    }
    out.marked.insert(out.marked.end(), marks.begin(), marks.end());
}

MarkedIds Tokenizer::encode_marked(std::string_view text, std::span<const jinja::Span> spans) const {
    MarkedIds out;
    for (const auto& part : parts_->added.split(text, AddedTokens::Stage::BeforeNormalizing)) {
        while (!spans.empty() && spans.front().end <= part.begin) spans = spans.subspan(1);
        std::size_t count = 0;
        while (count < spans.size() && spans[count].begin < part.end) ++count;
        if (part.token) {
            out.ids.push_back(*part.token);
            out.marked.push_back(count > 0);
        } else {
            encode_marked_piece(text, part.begin, part.end, spans.first(count), out);
        }
    }
    return out;
}

}  // namespace fedllm::client::data
