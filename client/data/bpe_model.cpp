#include "client/data/bpe_model.hpp"

#include <algorithm>
#include <bit>
#include <queue>

#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

constexpr char32_t kLowCharacters = 0x800;  // the byte alphabet and most letters of alphabetic scripts

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
    return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

struct Symbol {
    std::int32_t id;
    std::int32_t previous;  // index, -1 at the begin
    std::int32_t next;      // index, -1 at the end
};

struct Candidate {
    std::uint32_t rank;
    std::int32_t position;  // of the left symbol
    std::int32_t left;      // the pair at the time of the offer: it has gone if they differ now
    std::int32_t right;
    std::int32_t merged;

    // For a max-heap: the lowest rank is on top, then the leftmost.
    bool operator<(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : position > other.position;
    }
};

// One word's symbols, as a linked list over a vector, and the merges that are possible in it.
class Merger {
public:
    Merger(const MergeTable& merges, const std::vector<std::int32_t>& ids) : merges_(merges) {
        const auto count = static_cast<std::int32_t>(ids.size());
        symbols_.reserve(ids.size());
        for (std::int32_t i = 0; i < count; ++i) {
            symbols_.push_back({ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
        }
        for (std::int32_t i = 0; i + 1 < count; ++i) offer(i);
    }

    void run(std::vector<std::int32_t>& out) {
        while (!candidates_.empty()) {
            const Candidate best = candidates_.top();
            candidates_.pop();
            if (is_current(best)) merge(best);
        }
        for (std::int32_t i = 0; i != -1; i = at(i).next) out.push_back(at(i).id);
    }

private:
    Symbol& at(std::int32_t index) { return symbols_[static_cast<std::size_t>(index)]; }

    void offer(std::int32_t left) {
        const std::int32_t right = at(left).next;
        if (const auto* found = merges_.find(at(left).id, at(right).id)) {
            candidates_.push({found->rank, left, at(left).id, at(right).id, found->id});
        }
    }

    bool is_current(const Candidate& candidate) {
        const Symbol& left = at(candidate.position);
        return left.id == candidate.left && left.next != -1 && at(left.next).id == candidate.right;
    }

    void merge(const Candidate& best) {
        Symbol& left = at(best.position);
        Symbol& right = at(left.next);
        left.id = best.merged;
        left.next = right.next;
        right.id = kGone;
        if (left.next != -1) {
            at(left.next).previous = best.position;
            offer(best.position);
        }
        if (left.previous != -1) offer(left.previous);
    }

    static constexpr std::int32_t kGone = -1;  // no token's id, so no candidate matches it

    const MergeTable& merges_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Candidate> candidates_;
};

}  // namespace

MergeTable::MergeTable(std::size_t count) : slots_(std::bit_ceil(std::max<std::size_t>(2 * count, 2))) {}

std::size_t MergeTable::slot_of(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >> 32) & mask;
    while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask;
    return slot;
}

void MergeTable::set(std::int32_t left, std::int32_t right, Merge merge) {
    const std::uint64_t key = pair_key(left, right);
    slots_[slot_of(key)] = Slot{key, merge};
}

const MergeTable::Merge* MergeTable::find(std::int32_t left, std::int32_t right) const {
    const Slot& slot = slots_[slot_of(pair_key(left, right))];
    return slot.key == kEmpty ? nullptr : &slot.merge;
}

Result<BpeModel> BpeModel::parse(const JsonField& field) {
    FEDLLM_TRY(const auto type, field.text_or("type", "BPE"));  // old files leave it out
    if (type != "BPE") return field.unsupported("the model '" + type + "'; supported is BPE");
    BpeModel model;
    FEDLLM_TRY_VOID(model.read_vocabulary(field));
    FEDLLM_TRY_VOID(model.read_merges(field));
    FEDLLM_TRY_VOID(model.read_options(field));
    model.index_characters();
    return model;
}

Result<void> BpeModel::read_vocabulary(const JsonField& field) {
    FEDLLM_TRY(const auto vocabulary, field.object("vocab"));
    if (vocabulary.value().empty()) return vocabulary.error("the vocabulary is empty");
    ids_.reserve(vocabulary.value().size());
    for (const auto& [token, value] : vocabulary.value().items()) {
        FEDLLM_TRY(const auto id, JsonField(value, vocabulary.path() + "['" + token + "']").as_token_id());
        const auto slot = static_cast<std::size_t>(id);
        if (slot >= tokens_.size()) tokens_.resize(slot + 1, nullptr);
        if (tokens_[slot]) {
            return vocabulary.error("'" + *tokens_[slot] + "' and '" + token + "' have the same id " +
                                    std::to_string(id));
        }
        tokens_[slot] = &ids_.emplace(token, id).first->first;
    }
    return {};
}

Result<void> BpeModel::read_merges(const JsonField& field) {
    FEDLLM_TRY(const auto list, field.array("merges"));
    const std::size_t count = list.value().size();
    merges_ = MergeTable(count);
    for (std::size_t rank = 0; rank < count; ++rank) {
        const JsonField entry = list.element(rank);
        std::string left, right;
        if (entry.value().is_array() && entry.value().size() == 2) {
            FEDLLM_TRY(left, entry.element(0).as_text());
            FEDLLM_TRY(right, entry.element(1).as_text());
        } else {
            FEDLLM_TRY(const auto text, entry.as_text());
            const auto space = text.find(' ');
            if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
                return entry.error("expected two tokens and one space between them, found '" + text + "'");
            }
            left = text.substr(0, space);
            right = text.substr(space + 1);
        }
        const auto left_id = id_of(left), right_id = id_of(right), merged = id_of(left + right);
        if (!left_id || !right_id || !merged) {
            const auto& missing = !left_id ? left : !right_id ? right : left + right;
            return entry.error("'" + missing + "' is not in the vocabulary");
        }
        merges_.set(*left_id, *right_id, {static_cast<std::uint32_t>(rank), *merged});
    }
    return {};
}

Result<void> BpeModel::read_options(const JsonField& field) {
    const JsonField dropout = field.member_or_null("dropout");
    if (!dropout.is_null() && dropout.value() != Json(0.0)) {
        return dropout.unsupported("random dropout of merges; supported is null");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
        FEDLLM_TRY(const auto affix, field.text_or(key, ""));
        if (!affix.empty())
            return field.unsupported(std::string(key) + " '" + affix + "'; supported is none");
    }
    FEDLLM_TRY(fuse_unknown_, field.flag_or("fuse_unk", false));
    FEDLLM_TRY(ignore_merges_, field.flag_or("ignore_merges", false));
    FEDLLM_TRY(const bool byte_fallback, field.flag_or("byte_fallback", false));
    if (byte_fallback) {
        byte_ids_.assign(256, -1);
        for (unsigned byte = 0; byte < 256; ++byte) {
            constexpr std::string_view digits = "0123456789ABCDEF";
            const std::string token = std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">";
            byte_ids_[byte] = id_of(token).value_or(-1);
        }
    }
    FEDLLM_TRY(const auto unknown, field.text_or("unk_token", ""));
    if (!unknown.empty()) {
        unknown_ = id_of(unknown);
        if (!unknown_) return field.error("unk_token: '" + unknown + "' is not in the vocabulary");
    }
    return {};
}

void BpeModel::index_characters() {
    low_characters_.assign(kLowCharacters, -1);
    for (char32_t c = 0; c < kLowCharacters; ++c) {
        std::string text;
        append_utf8(text, c);
        low_characters_[c] = id_of(text).value_or(-1);
    }
}

std::optional<std::int32_t> BpeModel::id_of(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* BpeModel::token_of(std::int32_t id) const {
    const auto slot = static_cast<std::size_t>(id);
    return id >= 0 && slot < tokens_.size() ? tokens_[slot] : nullptr;
}

std::optional<std::int32_t> BpeModel::character_id(std::string_view character) const {
    if (character.size() > 2) return id_of(character);
    const std::int32_t id = low_characters_[code_point_at(character, 0).value];
    return id < 0 ? std::nullopt : std::optional(id);
}

bool BpeModel::fall_back_to_bytes(std::string_view character, std::vector<std::int32_t>& symbols) const {
    if (byte_ids_.empty()) return false;
    const auto id_at = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (std::any_of(character.begin(), character.end(), [&](char byte) { return id_at(byte) < 0; }))
        return false;
    for (const char byte : character) symbols.push_back(id_at(byte));
    return true;
}

// A character that has no token becomes its bytes, or else the unknown token, or else nothing. A pending
// unknown is written before the next known character and not before bytes: so does the library that defined
// the format.
void BpeModel::to_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const {
    bool pending = false;
    for (std::size_t at = 0; at < word.size();) {
        const std::string_view character = word.substr(at, code_point_at(word, at).length);
        at += character.size();
        if (const auto id = character_id(character)) {
            if (pending) symbols.push_back(*unknown_);
            pending = false;
            symbols.push_back(*id);
        } else if (!fall_back_to_bytes(character, symbols) && unknown_) {
            if (pending && !fuse_unknown_) symbols.push_back(*unknown_);
            pending = true;
        }
    }
    if (pending) symbols.push_back(*unknown_);
}

void BpeModel::encode_word(std::string_view word, std::vector<std::int32_t>& out) const {
    if (ignore_merges_) {
        if (const auto whole = id_of(word)) {
            out.push_back(*whole);
            return;
        }
    }
    std::vector<std::int32_t> symbols;
    to_symbols(word, symbols);
    if (symbols.size() < 2) {
        out.insert(out.end(), symbols.begin(), symbols.end());
    } else {
        Merger(merges_, symbols).run(out);
    }
}

}  // namespace fedllm::client::data
