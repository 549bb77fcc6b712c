#include "client/data/tokenizer.hpp"

#include "client/data/unicode.hpp"
#include "tests/client/data/support.hpp"

namespace fedllm::client::data {
namespace {

using testing::byte_tokenizer_json;
using testing::bytes_of;
using testing::kBos;
using testing::kEos;

using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

Error parse_error(const Json& json) {
    const auto result = Tokenizer::parse(json.dump());
    EXPECT_FALSE(result.has_value()) << json.dump().substr(0, 200);
    return result ? Error{} : result.error();
}

void expect_error(const Json& json, Errc code, const std::string& part) {
    const Error error = parse_error(json);
    EXPECT_EQ(error.code, code) << error.message;
    EXPECT_NE(error.message.find(part), std::string::npos) << "'" << part << "' is not in: " << error.message;
}

Json with(const char* pointer, Json value) {
    Json json = byte_tokenizer_json();
    json[Json::json_pointer(pointer)] = std::move(value);
    return json;
}

TEST(Tokenizer, BytesAndSpecialTokens) {
    const auto tokenizer = testing::byte_tokenizer();
    EXPECT_EQ(tokenizer.vocab_size(), 258u);
    EXPECT_EQ(tokenizer.bos(), kBos);
    EXPECT_EQ(tokenizer.eos(), kEos);
    EXPECT_EQ(tokenizer.id_of("</s>"), kEos);
    EXPECT_EQ(tokenizer.id_of("nothing"), std::nullopt);
    EXPECT_EQ(tokenizer.encode(""), Ids{});
    EXPECT_EQ(tokenizer.encode("é"), (Ids{0xC3, 0xA9}));
    EXPECT_EQ(tokenizer.encode("a", AddSpecial::Yes), (Ids{kBos, 'a', kEos}));
    EXPECT_EQ(tokenizer.encode("a</s><s>b"), (Ids{'a', kEos, kBos, 'b'}));
    EXPECT_EQ(tokenizer.decode(Ids{kBos, 'a', 0xC3, 0xA9, kEos, 99999, -7}), "aé");
    EXPECT_EQ(tokenizer.decode(Ids{'a', 0xC3}), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Tokenizer, TextThatIsNotUtf8BecomesReplacementCharacters) {
    const auto tokenizer = testing::byte_tokenizer();
    EXPECT_EQ(tokenizer.encode("a\xFF"), bytes_of("a\xEF\xBF\xBD"));
    EXPECT_EQ(to_valid_utf8("\xE2\x82"), "\xEF\xBF\xBD");  // a truncated sequence is one part
    EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate is three
    EXPECT_EQ(to_valid_utf8("\xC0\xAFx"), "\xEF\xBF\xBD\xEF\xBF\xBDx");                // overlong
    EXPECT_EQ(to_valid_utf8("\xF0\x9F\xA6\x99"), "\xF0\x9F\xA6\x99");
}

TEST(Tokenizer, AddedTokensStripAndTheLongestWins) {
    Json json = byte_tokenizer_json();
    const auto add = [&](const char* content, int id, bool left, bool right) {
        json["added_tokens"].push_back({{"id", id},
                                        {"content", content},
                                        {"special", false},
                                        {"lstrip", left},
                                        {"rstrip", right},
                                        {"normalized", false}});
    };
    add("<a>", 258, true, true);
    add("<a>b", 259, false, false);
    add("\n\n", 260, false, false);
    const auto tokenizer = Tokenizer::parse(json.dump()).value();
    EXPECT_EQ(tokenizer.encode("x \t<a> \xC2\xA0y"), (Ids{'x', 258, 'y'}));
    EXPECT_EQ(tokenizer.encode("x <a>bc"), (Ids{'x', ' ', 259, 'c'}));
    EXPECT_EQ(tokenizer.encode("<a> <a>"), (Ids{258, 258}));
    EXPECT_EQ(tokenizer.encode("\n\n\n"), (Ids{260, '\n'}));
    EXPECT_EQ(tokenizer.decode(Ids{'x', 258}), "x<a>");
}

TEST(Tokenizer, SingleWordsAreTouchedByNoWord) {
    const auto tokenizer = Tokenizer::parse(with("/added_tokens/0/single_word", true).dump()).value();
    const auto with_bytes = [](std::string_view before, std::string_view after) {
        auto ids = bytes_of(before);
        ids.push_back(kBos);
        const auto rest = bytes_of(after);
        ids.insert(ids.end(), rest.begin(), rest.end());
        return ids;
    };
    EXPECT_EQ(tokenizer.encode("<s>"), with_bytes("", ""));
    EXPECT_EQ(tokenizer.encode(".<s> x"), with_bytes(".", " x"));
    EXPECT_EQ(tokenizer.encode("½<s>—"), with_bytes("½", "—"));  // neither is \\w
    for (const char* text : {"a<s>", "<s>é", "_<s>", "<s>\u0301", "\u200d<s>", "٣<s>"}) {
        EXPECT_EQ(tokenizer.encode(text), bytes_of(text)) << text;
    }
}

TEST(Tokenizer, NormalizersWithoutParameters) {
    const auto of = [](const char* type) {
        return Tokenizer::parse(with("/normalizer", {{"type", type}}).dump()).value();
    };
    EXPECT_EQ(of("Strip").encode("\u3000 a b\u2028\n"), bytes_of("a b"));
    EXPECT_EQ(of("Strip").encode(" \n"), bytes_of(""));
    EXPECT_EQ(of("NFD").encode("é각"), bytes_of("e\u0301\u1100\u1161\u11a8"));
    EXPECT_EQ(of("NFC").encode("e\u0301"), bytes_of("é"));
    EXPECT_EQ(of("NFC").encode("q\u0345\u0323"), bytes_of("q\u0323\u0345"));
    EXPECT_EQ(of("NFC").encode("q\u0345\u1df9"), bytes_of("q\u0345\u1df9"));  // of Unicode 10
}

TEST(Tokenizer, RefusesByName) {
    expect_error(with("/normalizer", {{"type", "NFKC"}}), Errc::Unsupported, "the normalizer 'NFKC'");
    expect_error(with("/pre_tokenizer", {{"type", "Punctuation"}}), Errc::Unsupported, "'Punctuation'");
    expect_error(
        with("/pre_tokenizer", {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "a+"}}}}),
        Errc::Unsupported, "a+");
    expect_error(with("/decoder", {{"type", "WordPiece"}}), Errc::Unsupported, "the decoder 'WordPiece'");
    expect_error(with("/post_processor", {{"type", "BertProcessing"}}), Errc::Unsupported,
                 "'BertProcessing'");
    expect_error(with("/model/type", "Unigram"), Errc::Unsupported, "the model 'Unigram'");
    expect_error(with("/model/dropout", 0.1), Errc::Unsupported, "model.dropout");
    expect_error(with("/model/end_of_word_suffix", "</w>"), Errc::Unsupported, "end_of_word_suffix");
    expect_error(with("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "x"}}}, {"content", "y"}}),
                 Errc::Unsupported, "normalizer.pattern");
}

TEST(Tokenizer, BrokenFieldsAreNamed) {
    expect_error(Json::array(), Errc::InvalidFile, "top level: expected an object");
    expect_error(Json::object(), Errc::InvalidFile, "'model' is missing");
    expect_error(with("/model", 3), Errc::InvalidFile, "model: expected an object");
    expect_error(with("/model/vocab", Json::object()), Errc::InvalidFile, "model.vocab");
    expect_error(with("/model/vocab/x", -1), Errc::InvalidFile, "model.vocab['x']");
    expect_error(with("/model/vocab/x", 1e30), Errc::InvalidFile, "model.vocab['x']");
    expect_error(with("/model/vocab/x", 2'000'000'000), Errc::InvalidFile, "model.vocab['x']");
    expect_error(with("/model/vocab/x", 7), Errc::InvalidFile, "the same id 7");
    expect_error(with("/model/merges", {"a b"}), Errc::InvalidFile, "model.merges[0]: 'a'");
    expect_error(with("/model/merges", {"ab"}), Errc::InvalidFile, "expected two tokens");
    expect_error(with("/model/merges", Json::array({Json::array({"a"})})), Errc::InvalidFile,
                 "model.merges[0]");
    expect_error(with("/model/unk_token", "<unk>"), Errc::InvalidFile, "unk_token");
    expect_error(with("/model/byte_fallback", "yes"), Errc::InvalidFile, "model.byte_fallback");
    expect_error(with("/added_tokens/1/id", kBos), Errc::InvalidFile, "added_tokens[1]");
    expect_error(with("/added_tokens/1/id", 65), Errc::InvalidFile, "<0x41>");
    expect_error(with("/added_tokens/1/content", ""), Errc::InvalidFile, "added_tokens[1].content");
    expect_error(with("/added_tokens/1/content", "<s>"), Errc::InvalidFile, "occurs twice");
    expect_error(with("/added_tokens", 1), Errc::InvalidFile, "added_tokens");
    expect_error(with("/post_processor/special_tokens/<s>/ids/0", 300), Errc::InvalidFile, "300");
    expect_error(with("/post_processor/single", Json::array()), Errc::InvalidFile, "post_processor.single");
    expect_error(with("/normalizer", {{"type", "Prepend"}}), Errc::InvalidFile, "'prepend' is missing");
    expect_error(with("/normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "y"}}),
                 Errc::InvalidFile, "normalizer.pattern");
    expect_error(with("/decoder", {{"type", "Strip"}, {"content", " "}, {"start", 99999}, {"stop", 0}}),
                 Errc::InvalidFile, "decoder");
    Json nested{{"type", "NFC"}};
    for (int depth = 0; depth < 100; ++depth) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
    expect_error(with("/normalizer", nested), Errc::InvalidFile, "nested too deeply");
}

TEST(Tokenizer, BrokenJsonNamesLineAndColumn) {
    const auto result = Tokenizer::parse("{\n  \"model\": {,}\n}");
    ASSERT_FALSE(result.has_value());
    EXPECT_NE(result.error().message.find("line 2, column 13"), std::string::npos) << result.error().message;
}

// Cut anywhere, or with a byte changed, a file is refused or read, and nothing else happens.
TEST(Tokenizer, SurvivesDamage) {
    const std::string whole = byte_tokenizer_json().dump();
    for (std::size_t length = 0; length < whole.size(); length += 7) {
        EXPECT_FALSE(Tokenizer::parse(std::string_view(whole).substr(0, length)).has_value());
    }
    for (std::size_t at = 0; at < whole.size(); at += 3) {
        std::string damaged = whole;
        damaged[at] = static_cast<char>(damaged[at] ^ 0x11);
        if (const auto tokenizer = Tokenizer::parse(damaged)) (void)tokenizer->encode("a<s>\n\xC3\xA9");
    }
}

TEST(Tokenizer, FolderNamesTheSpecialTokens) {
    const testing::TemporaryFolder folder;
    Json json = byte_tokenizer_json();
    json["post_processor"] = nullptr;
    folder.write("tokenizer.json", json.dump());
    auto tokenizer = Tokenizer::load_folder(folder.path());
    ASSERT_TRUE(tokenizer.has_value());
    EXPECT_EQ(tokenizer->bos(), std::nullopt);

    folder.write("config.json", R"({"bos_token_id": 7, "eos_token_id": [9, 8]})");
    tokenizer = Tokenizer::load_folder(folder.path());
    ASSERT_TRUE(tokenizer.has_value());
    EXPECT_EQ(tokenizer->bos(), 7);
    EXPECT_EQ(tokenizer->eos(), 9);

    folder.write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
    tokenizer = Tokenizer::load_folder(folder.path());
    ASSERT_TRUE(tokenizer.has_value());
    EXPECT_EQ(tokenizer->bos(), kBos);
    EXPECT_EQ(tokenizer->eos(), kEos);

    folder.write("tokenizer_config.json", R"({"bos_token": "<bos>"})");
    tokenizer = Tokenizer::load_folder(folder.path());
    ASSERT_FALSE(tokenizer.has_value());
    EXPECT_NE(tokenizer.error().message.find("'<bos>' is not in tokenizer.json"), std::string::npos);
    EXPECT_FALSE(Tokenizer::load_folder(folder.path() / "nowhere").has_value());
}

}  // namespace
}  // namespace fedllm::client::data
