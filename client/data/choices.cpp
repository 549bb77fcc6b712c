#include "client/data/choices.hpp"

#include <algorithm>
#include <utility>

#include "client/data/json_fields.hpp"
#include "client/data/row.hpp"

namespace fedllm::client::data {
namespace {

constexpr std::size_t kFileBytesMax = std::size_t{1} << 30;
constexpr std::size_t kChoicesMax = 26;
constexpr std::string_view kBlank = " \t\r\n";

Error bad(const std::string& place, const std::string& what) {
    return make_error(Errc::InvalidData, place + ": " + what);
}

std::string trimmed(const std::string& text) {
    const auto first = text.find_first_not_of(kBlank);
    if (first == text.npos) return "";
    return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

Result<ChoiceQuestion> make_question(const std::string& question, std::vector<std::string> choices,
                                     std::size_t answer, ChoiceStyle style) {
    if (choices.size() < 2 || choices.size() > kChoicesMax) {
        return make_error(Errc::InvalidData, "a question has 2 to " + std::to_string(kChoicesMax) +
                                                 " choices, found " + std::to_string(choices.size()));
    }
    if (std::any_of(choices.begin(), choices.end(), [](const auto& choice) { return choice.empty(); })) {
        return make_error(Errc::InvalidData, "a choice is empty");
    }
    if (style == ChoiceStyle::Text) {
        return ChoiceQuestion{"Question: " + trimmed(question) + "\nAnswer:", " ", std::move(choices),
                              answer};
    }
    std::string prompt = trimmed(question) + "\n";
    std::vector<std::string> letters;
    for (std::size_t i = 0; i < choices.size(); ++i) {
        letters.emplace_back(1, static_cast<char>('A' + i));
        prompt += letters.back() + ". " + choices[i] + "\n";
    }
    return ChoiceQuestion{prompt + "Answer:", " ", std::move(letters), answer};
}

// 2, "C", or the text of a choice.
Result<std::size_t> answer_index(const JsonField& answer, const std::vector<std::string>& choices) {
    const Json& value = answer.value();
    if (value.is_number_unsigned() && value.get<std::size_t>() < choices.size()) {
        return value.get<std::size_t>();
    }
    if (value.is_string()) {
        const auto& text = value.get_ref<const std::string&>();
        const auto found = std::find(choices.begin(), choices.end(), text);
        if (found != choices.end()) return static_cast<std::size_t>(found - choices.begin());
        if (text.size() == 1 && text[0] >= 'A' && static_cast<std::size_t>(text[0] - 'A') < choices.size()) {
            return static_cast<std::size_t>(text[0] - 'A');
        }
    }
    return answer.error("expected an index below " + std::to_string(choices.size()) +
                        ", the letter of a choice or its text");
}

Result<std::vector<std::string>> texts(const JsonField& array) {
    std::vector<std::string> all;
    for (std::size_t i = 0; i < array.value().size(); ++i) {
        FEDLLM_TRY(std::string text, array.element(i).as_text());
        all.push_back(std::move(text));
    }
    return all;
}

Result<ChoiceQuestion> question_row(const JsonField& row, ChoiceStyle style) {
    FEDLLM_TRY(const std::string question, row.text("question"));
    if (!row.member_or_null("choices").value().is_object()) {
        FEDLLM_TRY(const JsonField array, row.array("choices"));
        FEDLLM_TRY(auto choices, texts(array));
        FEDLLM_TRY(const std::size_t answer, answer_index(row.member_or_null("answer"), choices));
        return make_question(question, std::move(choices), answer, style);
    }
    FEDLLM_TRY(const JsonField object, row.object("choices"));
    FEDLLM_TRY(const JsonField text_field, object.array("text"));
    FEDLLM_TRY(const JsonField label_field, object.array("label"));
    FEDLLM_TRY(auto choices, texts(text_field));
    FEDLLM_TRY(const auto labels, texts(label_field));
    FEDLLM_TRY(const std::string key, row.text("answerKey"));
    const auto found = std::find(labels.begin(), labels.end(), key);
    if (labels.size() != choices.size() || found == labels.end()) {
        return row.error("answerKey: is not among as many labels as texts");
    }
    return make_question(question, std::move(choices), static_cast<std::size_t>(found - labels.begin()),
                         style);
}

// Choices named at the end of an instruction: "Answer format: answer1/answer2/answer3".
Result<ChoiceQuestion> instruction_row(const JsonField& row) {
    constexpr std::string_view kFormat = "Answer format:";
    FEDLLM_TRY(const std::string instruction, row.text("instruction"));
    FEDLLM_TRY(const std::string input, row.text_or("input", ""));
    FEDLLM_TRY(const std::string answer, row.text("answer"));
    const auto at = instruction.rfind(kFormat);
    if (at == instruction.npos)
        return row.error("instruction: has no line '" + std::string(kFormat) + " a/b/c'");
    const std::string list = trimmed(instruction.substr(at + kFormat.size()));
    ChoiceQuestion question;
    question.prompt = instruction_prompt(instruction, input);
    std::vector<std::string> names;
    for (std::size_t start = 0; start <= list.size();) {
        const std::size_t end = std::min(list.find('/', start), list.size());
        names.push_back(list.substr(start, end - start));
        question.choices.push_back("the correct answer is " + names.back());
        start = end + 1;
    }
    const auto found = std::find(names.begin(), names.end(), answer);
    if (found == names.end() || names.size() < 2 || names.size() > kChoicesMax) {
        return row.error("answer: '" + answer + "' is not one of '" + list + "'");
    }
    question.answer = static_cast<std::size_t>(found - names.begin());
    return question;
}

bool is_question(const Json& row) {
    return row.is_object() && row.contains("question") && row.contains("choices");
}

Result<ChoiceQuestion> parse_question(const Json& json, const std::string& place, ChoiceStyle style) {
    const JsonField row(json, "");
    const bool instruction = json.is_object() && json.contains("instruction") && json.contains("answer");
    if (!is_question(json) && !instruction) {
        return bad(place, R"(expected {"question", "choices", "answer"} or {"instruction", "answer"})");
    }
    auto made = is_question(json) ? question_row(row, style) : instruction_row(row);
    if (!made) return bad(place, made.error().message);
    return made;
}

Result<ChoiceQuestion> csv_question(const std::vector<std::string>& record, ChoiceStyle style) {
    if (record.size() < 4) {
        return make_error(Errc::InvalidData, "expected a question, two or more choices and a letter, found " +
                                                 std::to_string(record.size()) + " fields");
    }
    std::vector<std::string> choices(record.begin() + 1, record.end() - 1);
    const std::string& letter = record.back();
    if (letter.size() != 1 || letter[0] < 'A' ||
        static_cast<std::size_t>(letter[0] - 'A') >= choices.size()) {
        return make_error(Errc::InvalidData,
                          "the last field is the letter of a choice, found '" + letter.substr(0, 40) + "'");
    }
    return make_question(record[0], std::move(choices), static_cast<std::size_t>(letter[0] - 'A'), style);
}

// Calls visit(row, place) for each row of a JSON array or of JSON lines; visit says whether to go on.
template <class Visit>
Result<void> for_each_row(std::string_view text, const std::string& source, Visit visit) {
    const auto first = text.find_first_not_of(kBlank);
    if (first != text.npos && text[first] == '[') {
        auto array = parse_json(text);
        if (!array) return with_context(array.error(), source);
        for (std::size_t i = 0; i < array->size(); ++i) {
            FEDLLM_TRY(const bool more, visit((*array)[i], source + ":" + std::to_string(i + 1)));
            if (!more) return {};
        }
        return {};
    }
    for (std::size_t number = 1; !text.empty(); ++number) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        if (line.find_first_not_of(kBlank) == line.npos) continue;
        const std::string place = source + ":" + std::to_string(number);
        FEDLLM_TRY(const Json row, parse_json_line(line, place));
        FEDLLM_TRY(const bool more, visit(row, place));
        if (!more) return {};
    }
    return {};
}

std::string_view text_of(const MappedFile& file) {
    std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    return text;
}

}  // namespace

Result<std::vector<ChoiceQuestion>> load_choices(const Path& path, ChoiceStyle style) {
    FEDLLM_TRY(const MappedFile file, MappedFile::open(path));
    if (file.bytes().size() > kFileBytesMax)
        return make_error(Errc::TooLarge, path.string() + ": over 1 GiB");
    std::vector<ChoiceQuestion> questions;
    if (path.extension() == ".csv") {
        FEDLLM_TRY(const auto records, parse_csv(text_of(file), path.string()));
        for (std::size_t i = 0; i < records.size(); ++i) {
            auto question = csv_question(records[i], style);
            if (!question) return bad(path.string() + ":" + std::to_string(i + 1), question.error().message);
            questions.push_back(*std::move(question));
        }
    } else {
        FEDLLM_TRY_VOID(for_each_row(text_of(file), path.string(),
                                     [&](const Json& row, const std::string& place) -> Result<bool> {
                                         FEDLLM_TRY(auto question, parse_question(row, place, style));
                                         questions.push_back(std::move(question));
                                         return true;
                                     }));
    }
    if (questions.empty()) return bad(path.string(), "no question in it");
    return questions;
}

Result<bool> holds_choices(const Path& path) {
    if (path.extension() == ".csv") return true;
    FEDLLM_TRY(const MappedFile file, MappedFile::open(path));
    bool found = false;
    const auto looked =
        for_each_row(text_of(file), path.string(), [&](const Json& row, const std::string&) -> Result<bool> {
            found = is_question(row);
            return false;
        });
    return looked && found;  // what cannot be read is for the reader of the other forms to complain about
}

Result<std::vector<std::vector<std::string>>> parse_csv(std::string_view text, const std::string& source) {
    std::vector<std::vector<std::string>> records;
    std::vector<std::string> record;
    const auto end_record = [&] {
        if (record.size() > 1 || !record.front().empty()) records.push_back(std::move(record));
        record.clear();
    };
    for (std::size_t i = 0; i < text.size();) {
        std::string field;
        if (text[i] == '"') {
            for (++i;; ++i) {
                if (i >= text.size()) {
                    return bad(source + ":" + std::to_string(records.size() + 1),
                               "a quoted field does not end");
                }
                if (text[i] == '"' && (++i >= text.size() || text[i] != '"')) break;
                field += text[i];
            }
        }
        while (i < text.size() && text[i] != ',' && text[i] != '\n') field += text[i++];
        if (!field.empty() && field.back() == '\r' && (i >= text.size() || text[i] == '\n')) field.pop_back();
        record.push_back(std::move(field));
        if (i >= text.size() || text[i++] == '\n') end_record();
    }
    if (!record.empty()) end_record();
    return records;
}

}  // namespace fedllm::client::data
