// Text to token ids and back, by a Hugging Face tokenizer.json with a BPE model: byte-level (GPT-2, SmolLM2,
// Llama 3, Qwen2) and byte-fallback (Llama 2). The ids are those of the `tokenizers` package; what a file
// asks for and this version cannot do is refused at load, by name.
//
// Limits: "truncation" and "padding" of the file are not applied, lengths being the data set's business; text
// that is not UTF-8 is read with U+FFFD in the broken places. Concurrency: const methods may run on many
// threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/data/chat_template.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::data {

enum class AddSpecial { No, Yes };  // Yes: with what the file's template puts around a text, such as BOS

struct MarkedIds {
    std::vector<std::int32_t> ids;
    std::vector<bool> marked;  // as many
};

class Tokenizer {
public:
    // bos() and eos() are what the file's template puts before and after a text, if anything.
    static Result<Tokenizer> load(const Path& tokenizer_json);
    static Result<Tokenizer> parse(std::string_view tokenizer_json_text);
    // tokenizer.json of a model folder; bos() and eos() from tokenizer_config.json, else config.json, else as
    // load().
    static Result<Tokenizer> load_folder(const Path& model_folder);

    Tokenizer(Tokenizer&&) noexcept;
    Tokenizer& operator=(Tokenizer&&) noexcept;
    ~Tokenizer();

    std::vector<std::int32_t> encode(std::string_view text, AddSpecial add = AddSpecial::No) const;
    // The ids of valid UTF-8 without special tokens added, and which of them overlap the spans, which are in
    // order.
    MarkedIds encode_marked(std::string_view text, std::span<const jinja::Span> spans) const;
    // Leaves special tokens and unknown ids out.
    std::string decode(std::span<const std::int32_t> ids) const;

    std::size_t vocab_size() const;  // one more than the largest id: the rows an embedding needs
    std::optional<std::int32_t> bos() const { return bos_; }
    std::optional<std::int32_t> eos() const { return eos_; }
    // Of a model folder: null where it has none, an error where it is one that we cannot render. That is no
    // reason not to load the folder: only conversations need it.
    const Result<ChatTemplate>* chat_template() const { return chat_template_.get(); }
    std::optional<std::int32_t> id_of(std::string_view token) const;

private:
    struct Parts;
    explicit Tokenizer(std::unique_ptr<const Parts> parts);

    void encode_piece(std::string_view text, bool at_start, std::vector<std::int32_t>& out) const;
    template <class Word, class Token>
    void for_each_word(std::string_view piece, bool at_start, Word word, Token token) const;
    std::size_t words_length(std::string_view piece, bool at_start) const;
    void encode_marked_piece(std::string_view text, std::size_t begin, std::size_t end,
                             std::span<const jinja::Span> spans, MarkedIds& out) const;
    Result<void> read_special_tokens(const Path& folder);

    std::unique_ptr<const Parts> parts_;
    std::unique_ptr<const Result<ChatTemplate>> chat_template_;
    std::optional<std::int32_t> bos_;
    std::optional<std::int32_t> eos_;
};

}  // namespace fedllm::client::data
