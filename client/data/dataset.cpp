#include "client/data/dataset.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "client/data/example_builder.hpp"
#include "common/base/philox.hpp"
#include "common/base/text.hpp"

namespace fedllm::client::data {
namespace {

constexpr std::size_t kLineBytesMax = std::size_t{16} << 20;
constexpr std::size_t kSequenceLengthMax = 1 << 20;

struct TokenizedRow {
    std::vector<Example> examples;
    float draw = 0;  // decides the side of the split
};

Result<void> check_options(const DatasetOptions& options) {
    if (options.sequence_length < 2 || options.sequence_length > kSequenceLengthMax) {
        return make_error(Errc::InvalidArgument, "sequence_length: expected 2 to " +
                                                     std::to_string(kSequenceLengthMax) + ", found " +
                                                     std::to_string(options.sequence_length));
    }
    if (!(options.eval_fraction >= 0.0 && options.eval_fraction < 1.0)) {
        return make_error(Errc::InvalidArgument,
                          "eval_fraction: expected at least 0 and less than 1, found " +
                              std::to_string(options.eval_fraction));
    }
    return {};
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n") == std::string_view::npos; }

// Calls visit(line, number) for each line that is not blank, numbers counting from 1.
template <class Visit>
Result<void> for_each_line(std::string_view text, Visit visit) {
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark
    for (std::size_t number = 1; !text.empty(); ++number) {
        const std::size_t length = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, length);
        text.remove_prefix(std::min(length + 1, text.size()));
        if (!is_blank(line)) FEDLLM_TRY_VOID(visit(line, number));
    }
    return {};
}

Result<std::vector<TokenizedRow>> read_rows(const Path& path, const Tokenizer& tokenizer,
                                            const DatasetOptions& options, DatasetStats& stats) {
    FEDLLM_TRY(const MappedFile file, MappedFile::open(path));
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    std::vector<TokenizedRow> rows;
    FEDLLM_TRY_VOID(for_each_line(text, [&](std::string_view line, std::size_t number) -> Result<void> {
        const std::string place = path.string() + ":" + std::to_string(number);
        if (rows.size() >= options.examples_max) {
            ++stats.rows_left_out;
            return {};
        }
        if (line.size() > kLineBytesMax) {
            return make_error(Errc::TooLarge, place + ": the line has " + format_bytes(line.size()) +
                                                  ", at most " + format_bytes(kLineBytesMax) + " are read");
        }
        FEDLLM_TRY(const Row row, parse_row(line, place, tokenizer.chat_template()));
        BuiltRow built = build_examples(row, tokenizer, options);
        if (built.truncated) ++stats.rows_truncated;
        if (built.examples.empty()) {
            ++stats.rows_skipped;
            return {};
        }
        // The line number, not the row's index: dropping another line leaves this row on its side.
        Rng rng(options.seed, stream_of("data/split") + number);
        rows.push_back({std::move(built.examples), rng.uniform()});
        return {};
    }));
    if (rows.empty()) return make_error(Errc::InvalidData, path.string() + ": no row with anything to learn");
    stats.rows += rows.size();
    return rows;
}

std::vector<bool> choose_eval_rows(const std::vector<TokenizedRow>& rows, double fraction) {
    std::vector<bool> chosen(rows.size(), false);
    if (fraction <= 0.0 || rows.size() < 2) return chosen;
    const auto by_draw = [](const TokenizedRow& a, const TokenizedRow& b) { return a.draw < b.draw; };
    const auto [lowest, highest] = std::minmax_element(rows.begin(), rows.end(), by_draw);
    for (std::size_t i = 0; i < rows.size(); ++i) chosen[i] = rows[i].draw < fraction;
    // minmax_element gives the first of the lowest and the last of the highest: two different rows.
    chosen[static_cast<std::size_t>(lowest - rows.begin())] = true;
    chosen[static_cast<std::size_t>(highest - rows.begin())] = false;
    return chosen;
}

void append(std::vector<Example>&& from, std::vector<Example>& to) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

void count(const std::vector<Example>& examples, std::size_t& number, std::size_t& tokens,
           std::size_t& labels) {
    number = examples.size();
    for (const auto& example : examples) {
        tokens += example.tokens.size();
        labels += example.targets.size() - static_cast<std::size_t>(std::count(
                                               example.targets.begin(), example.targets.end(), kIgnoreIndex));
    }
}

}  // namespace

Result<Dataset> Dataset::load_jsonl(const Path& path, const Tokenizer& tokenizer,
                                    const DatasetOptions& options) {
    FEDLLM_TRY_VOID(check_options(options));
    Dataset dataset;
    FEDLLM_TRY(auto rows, read_rows(path, tokenizer, options, dataset.stats_));
    const bool own_eval_file = !options.eval_path.empty();
    const auto in_eval = choose_eval_rows(rows, own_eval_file ? 0.0 : options.eval_fraction);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        append(std::move(rows[i].examples), in_eval[i] ? dataset.eval_ : dataset.train_);
    }
    if (own_eval_file) {
        FEDLLM_TRY(auto eval_rows, read_rows(options.eval_path, tokenizer, options, dataset.stats_));
        for (auto& row : eval_rows) append(std::move(row.examples), dataset.eval_);
    }
    auto& stats = dataset.stats_;
    count(dataset.train_, stats.train_examples, stats.train_tokens, stats.train_labels);
    count(dataset.eval_, stats.eval_examples, stats.eval_tokens, stats.eval_labels);
    return dataset;
}

}  // namespace fedllm::client::data
