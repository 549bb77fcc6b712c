#include "client/train/text_stream.hpp"

#include "common/base/text.hpp"
#include "tests/client/data/support.hpp"

namespace fedllm::client::train {
namespace {

using data::testing::byte_tokenizer;
using data::testing::bytes_of;

// What push() and finish() gave, piece by piece; the tokens are the bytes of the text.
std::vector<std::string> pieces(std::string_view text, std::vector<std::string> stops,
                                bool* stopped = nullptr) {
    const auto tokenizer = byte_tokenizer();
    const auto prompt = bytes_of("prompt");
    TextStream stream(tokenizer, prompt, std::move(stops));
    std::vector<std::string> all;
    for (const std::int32_t token : bytes_of(text)) {
        all.push_back(stream.push(token));
        if (stream.stopped()) break;
    }
    all.push_back(stream.finish());
    if (stopped != nullptr) *stopped = stream.stopped();
    std::erase(all, "");
    return all;
}

std::string joined(std::string_view text, std::vector<std::string> stops, bool* stopped = nullptr) {
    std::string all;
    for (const auto& piece : pieces(text, std::move(stops), stopped)) all += piece;
    return all;
}

TEST(TextStream, NeverHalfACharacter) {
    const std::string text = "a\u00e9\u20ac\U0001F600z";
    EXPECT_EQ(pieces(text, {}), (std::vector<std::string>{"a", "\u00e9", "\u20ac", "\U0001F600", "z"}));
    for (const auto& piece : pieces(text, {"\u20ac\u20ac", "\U0001F601"}))
        EXPECT_TRUE(is_utf8(piece)) << piece;
    EXPECT_EQ(joined(text, {"\u20ac\u20ac", "\U0001F601"}), text);
}

TEST(TextStream, ACharacterThatIsNotCompletedComesMarked) {
    const std::string half = joined("a\xE2\x82", {});
    EXPECT_TRUE(is_utf8(half));
    EXPECT_TRUE(half.starts_with("a\uFFFD")) << half;
    EXPECT_TRUE(is_utf8(joined("\u00e9\xE2", {})));
    EXPECT_TRUE(is_utf8(joined("\u00e9\xE2x\xC3", {})));
}

TEST(TextStream, EndsBeforeTheFirstStopString) {
    bool stopped = false;
    EXPECT_EQ(joined("one STOP two", {"END", " STOP"}, &stopped), "one");
    EXPECT_TRUE(stopped);
    EXPECT_EQ(joined("aab", {"ab"}, &stopped), "a");
    EXPECT_EQ(joined("abcabd", {"abd"}, &stopped), "abc");
    EXPECT_EQ(joined("one STO", {"STOP", ""}, &stopped), "one STO");  // held back, then let go
    EXPECT_FALSE(stopped);
    EXPECT_EQ(joined("\u20acx", {"\u20ac"}), "");
    EXPECT_EQ(joined("one", {}), "one");
}

TEST(TextStream, HoldsBackOnlyWhatMayStillBeAStopString) {
    EXPECT_EQ(pieces("xSTy", {"STOP"}), (std::vector<std::string>{"x", "STy"}));
}

// Llama 2's tokenizer drops a space at the beginning of a text; between prompt and answer it is there.
TEST(TextStream, TheSpaceAfterThePromptIsKept) {
    const Path folder = data::testing::assets() / "models/stories260K";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder << ": set FEDLLM_ASSETS";
    const auto tokenizer = data::Tokenizer::load_folder(folder).value();
    const auto prompt = tokenizer.encode("Once upon a time");
    const auto all = tokenizer.encode("Once upon a time there was \u00e9t\u00e9 a cat.");
    ASSERT_TRUE(std::equal(prompt.begin(), prompt.end(), all.begin()));
    TextStream stream(tokenizer, prompt, {});
    std::string text;
    for (std::size_t i = prompt.size(); i < all.size(); ++i) {
        const std::string piece = stream.push(all[i]);
        EXPECT_TRUE(is_utf8(piece));
        text += piece;
    }
    EXPECT_EQ(text + stream.finish(), " there was \u00e9t\u00e9 a cat.");
}

}  // namespace
}  // namespace fedllm::client::train
