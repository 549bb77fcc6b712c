// Byte-pair encoding (Sennrich et al. 2016): characters become symbols, and the adjacent pair that was
// learned earliest merges first, leftmost where it occurs twice, until no pair is left that was learned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/data/json_fields.hpp"

namespace fedllm::client::data {

// Open addressing from a pair of ids to what the pair becomes: the one lookup that encoding spends its time
// in.
class MergeTable {
public:
    struct Merge {
        std::uint32_t rank = 0;
        std::int32_t id = -1;
    };

    MergeTable() = default;
    explicit MergeTable(std::size_t count);

    void set(std::int32_t left, std::int32_t right, Merge merge);  // the last of equal pairs counts
    const Merge* find(std::int32_t left, std::int32_t right) const;

private:
    struct Slot {
        std::uint64_t key = kEmpty;
        Merge merge;
    };
    static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

    std::size_t slot_of(std::uint64_t key) const;

    std::vector<Slot> slots_;  // a power of two, at most half full
};

class BpeModel {
public:
    static Result<BpeModel> parse(const JsonField& field);
    BpeModel(BpeModel&&) = default;  // no copies: tokens_ points into ids_, whose nodes survive a move only
    BpeModel& operator=(BpeModel&&) = default;

    void encode_word(std::string_view word, std::vector<std::int32_t>& out) const;

    std::optional<std::int32_t> id_of(std::string_view token) const;
    const std::string* token_of(std::int32_t id) const;  // null where no token has this id
    std::size_t id_limit() const { return tokens_.size(); }

private:
    struct TextHash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
    };

    BpeModel() = default;
    Result<void> read_vocabulary(const JsonField& field);
    Result<void> read_merges(const JsonField& field);
    Result<void> read_options(const JsonField& field);
    void index_characters();

    std::optional<std::int32_t> character_id(std::string_view character) const;
    void to_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const;
    bool fall_back_to_bytes(std::string_view character, std::vector<std::int32_t>& symbols) const;

    std::unordered_map<std::string, std::int32_t, TextHash, std::equal_to<>> ids_;
    std::vector<const std::string*> tokens_;  // by id, pointing to the keys of ids_, which do not move
    MergeTable merges_;
    std::vector<std::int32_t> low_characters_;  // ids of the characters below kLowCharacters, -1 where absent
    std::vector<std::int32_t> byte_ids_;  // ids of <0x00> .. <0xFF>, -1 where absent; empty without fallback
    std::optional<std::int32_t> unknown_;
    bool fuse_unknown_ = false;
    bool ignore_merges_ = false;
};

}  // namespace fedllm::client::data
