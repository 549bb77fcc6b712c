// Chat templates: renderings against transformers (golden/chat.json), where they are found, and what of a
// conversation is learned. tests/peers/chat_template_peer.py shows differences that the digests here only
// tell of.
#include "client/data/chat_row.hpp"
#include "client/data/dataset.hpp"
#include "common/crypto/sha256.hpp"
#include "common/jinja/json_value.hpp"
#include "tests/client/data/support.hpp"

namespace fedllm::client::data {
namespace {

using jinja::Span;
using testing::byte_tokenizer_json;
using testing::TemporaryFolder;
using Json = nlohmann::ordered_json;

Conversation conversation(const std::string& messages, const std::string& tools = "null") {
    return Conversation::parse(Json{{"messages", Json::parse(messages)}, {"tools", Json::parse(tools)}})
        .value();
}

ChatTemplate chat_template(const std::string& source) {
    return ChatTemplate::parse(source, {{"eos_token", jinja::Value(std::string("</s>"))}}).value();
}

ChatTemplate golden_template(const std::string& name) {
    return chat_template(read_file(testing::golden() / "chat" / (name + ".jinja")).value());
}

// ----------------------------------------------------------------------------------------------------------------
// Renderings

std::string digest_of(const Path& file, const Json& golden) {
    jinja::Variables variables;
    for (const auto& [name, value] : golden.at("variables").items()) {
        variables.emplace_back(name, jinja::from_json(value).value());
    }
    const auto source = read_file(file).value();
    const auto chat = ChatTemplate::parse(source, std::move(variables)).value();
    std::tm now{};
    now.tm_year = golden.at("now")[0].get<int>() - 1900;
    now.tm_mon = golden.at("now")[1].get<int>() - 1;
    now.tm_mday = golden.at("now")[2].get<int>();
    crypto::Sha256 digest;
    for (const auto& [title, messages] : golden.at("conversations").items()) {
        for (const auto& tools : golden.at("tools")) {
            for (const auto prompt : {GenerationPrompt::No, GenerationPrompt::Yes}) {
                const auto talk = Conversation::parse(Json{{"messages", messages}, {"tools", tools}}).value();
                const auto rendered = chat.render(talk, talk.messages.size(), prompt, now);
                digest.update((rendered ? rendered->text : "refused") + std::string(1, '\0'));
                if (!rendered) continue;
                for (const auto& span : rendered->generated) {
                    digest.update(std::to_string(span.begin) + " " + std::to_string(span.end) +
                                  std::string(1, '\0'));
                }
            }
        }
    }
    return crypto::to_hex(digest.finish());
}

TEST(ChatGolden, RenderedAsTransformersDoes) {
    const auto golden = Json::parse(read_file(testing::golden() / "chat.json").value());
    const Path asset_folder = testing::assets() / "tokenizers/chat-templates";
    if (!std::filesystem::exists(asset_folder)) {
        std::printf("no shared assets at %s; set FEDLLM_ASSETS to check more templates\n",
                    asset_folder.c_str());
    }
    std::size_t checked = 0;
    for (const auto& [name, digest] : golden.at("digests").items()) {
        for (const Path& folder : {testing::golden() / "chat", asset_folder}) {
            if (!std::filesystem::exists(folder / (name + ".jinja"))) continue;
            EXPECT_EQ(digest_of(folder / (name + ".jinja"), golden), digest.get<std::string>()) << name;
            ++checked;
        }
    }
    EXPECT_GE(checked, std::filesystem::exists(asset_folder) ? 15u : 8u);
}

// ----------------------------------------------------------------------------------------------------------------
// Where templates are found

Result<std::string> folder_says(const TemporaryFolder& folder, const std::string& tools = "null") {
    FEDLLM_TRY(const auto found, ChatTemplate::load_folder(folder.path()));
    if (!found) return std::string("none");
    FEDLLM_TRY(auto rendered, found->render(conversation(R"([{"role": "user", "content": "hi"}])", tools), 1,
                                            GenerationPrompt::No, std::tm{}));
    return std::move(rendered.text);
}

TEST(ChatTemplate, IsFoundInTheFolder) {
    const TemporaryFolder folder;
    EXPECT_EQ(folder_says(folder).value(), "none");
    folder.write("tokenizer_config.json", R"({"eos_token": "</s>", "chat_template": null})");
    EXPECT_EQ(folder_says(folder).value(), "none");
    folder.write("special_tokens_map.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "old"})");
    folder.write(
        "tokenizer_config.json",
        R"({"eos_token": "</s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"})");
    EXPECT_EQ(folder_says(folder).value(), "<s>hi</s>");
    folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                                                {"name": "default", "template": "plain"}]})");
    EXPECT_EQ(folder_says(folder).value(), "plain");
    EXPECT_EQ(folder_says(folder, "[]").value(), "tools");
    folder.write("chat_template.jinja", "file");
    EXPECT_EQ(folder_says(folder).value(), "file");
}

TEST(ChatTemplate, BrokenOnesAreNamed) {
    const TemporaryFolder folder;
    const auto error = [&] { return folder_says(folder).error().message; };
    folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "other", "template": ""}]})");
    EXPECT_NE(error().find("none of the templates is named 'default'"), std::string::npos) << error();
    folder.write("tokenizer_config.json", R"({"chat_template": 3})");
    EXPECT_NE(error().find("chat_template: expected a string"), std::string::npos) << error();
    folder.write("chat_template.jinja", "a\n{% call x() %}");
    EXPECT_NE(error().find(folder.path().string() + ": chat template: line 2: the statement 'call'"),
              std::string::npos)
        << error();
}

TEST(ChatTemplate, MessagesAreGivenAsTransformersGivesThem) {
    const auto chat = chat_template("{{ messages | tojson }}");
    const auto text = [&](const std::string& messages) {
        const auto talk = conversation(messages);
        return chat.render(talk, talk.messages.size(), GenerationPrompt::No, std::tm{}).value().text;
    };
    EXPECT_EQ(text(R"([{"role": "user", "zebra": 1, "apple": null, "content": "x"}])"),
              R"([{"role": "user", "zebra": 1, "content": "x"}])");
    EXPECT_EQ(text(R"([{"role": "assistant", "reasoning": "r"}])"),
              R"([{"thinking": "r", "role": "assistant", "reasoning": "r", "reasoning_content": "r"}])");
}

// ---------------------------------------------------------------------------------------------------------------
// What is learned

// Texts with what is learned in brackets.
std::vector<std::string> learned(const Conversation& talk, const ChatTemplate& chat) {
    std::vector<std::string> all;
    const auto texts = chat_texts(talk, chat).value();
    for (const auto& one : texts) {
        std::string text = one.text;
        for (auto span = one.learned.rbegin(); span != one.learned.rend(); ++span) {
            text.insert(span->end, "]").insert(span->begin, "[");
        }
        all.push_back(std::move(text));
    }
    return all;
}

using Texts = std::vector<std::string>;
constexpr const char* kTwoTurns = R"([{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"},
                                      {"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}])";

TEST(ChatTexts, TurnsAreFoundBehindTheGenerationPrompt) {
    EXPECT_EQ(learned(conversation(kTwoTurns), golden_template("zephyr")),
              (Texts{"<|user|>\nA</s>\n<|assistant|>\n[B</s>\n]<|user|>\nC</s>\n<|assistant|>\n[D</s>\n]"}));
}

TEST(ChatTexts, GenerationBlocksTell) {
    EXPECT_EQ(learned(conversation(kTwoTurns), golden_template("inst_generation")),
              (Texts{"[INST] A [/INST][ B</s>][INST] C [/INST][ D</s>]"}));
}

TEST(ChatTexts, ATemplateThatForgetsReasoningGivesATextPerTurn) {
    const auto talk = conversation(
        R"([{"role": "user", "content": "A"}, {"role": "assistant", "content": "<think>\nr\n</think>\n\nB"},
            {"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}])");
    const std::string open = "<|im_start|>", end = "<|im_end|>\n";
    EXPECT_EQ(learned(talk, golden_template("thinking")),
              (Texts{open + "user\nA" + end + open + "assistant\n[<think>\nr\n</think>\n\nB" + end + "]",
                     open + "user\nA" + end + open + "assistant\nB" + end + open + "user\nC" + end + open +
                         "assistant\n[<think>\n\n</think>\n\nD" + end + "]"}));
}

TEST(ChatTexts, APromptThatAnswersDoNotKeep) {
    const auto chat = chat_template(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\xC3\xBC<think>{% endif %}");
    EXPECT_EQ(learned(conversation(kTwoTurns), chat), (Texts{"<user>A<assistant>[B]<user>C<assistant>[D]"}));
    // 'ö' begins with the byte that 'ü' begins with, but is another character.
    EXPECT_EQ(
        learned(conversation(R"([{"role": "user", "content": "A"}, {"role": "assistant", "content": "ö"}])"),
                chat),
        (Texts{"<user>A<assistant>[ö]"}));
}

TEST(ChatTexts, NothingToLearn) {
    const auto chat = golden_template("zephyr");
    EXPECT_TRUE(learned(conversation(R"([{"role": "user", "content": "A"}])"), chat).empty());
    EXPECT_TRUE(learned(conversation("[]"), chat).empty());
    EXPECT_TRUE(
        learned(
            conversation(R"([{"role": "assistant", "content": "first"}, {"role": "user", "content": "A"}])"),
            chat)
            .empty());
}

TEST(ChatTexts, WhatCannotBeToldIsRefused) {
    const auto talk = conversation(kTwoTurns);
    const auto rewriting =
        chat_template("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}");
    const auto refused = chat_texts(talk, rewriting);
    ASSERT_FALSE(refused.has_value());
    EXPECT_NE(
        refused.error().message.find("messages[1]: the chat template writes earlier messages differently"),
        std::string::npos)
        << refused.error().message;
    const auto raising = chat_template("{{ raise_exception('no assistants') }}");
    EXPECT_EQ(chat_texts(talk, raising).error().message,
              "chat template: line 1: the template refuses this: no assistants");
}

// ---------------------------------------------------------------------------------------------------------------
// Tokens

TEST(EncodeMarked, SameIdsAndTheTokensThatOverlap) {
    for (const char* kind :
         {"gpt2", "gpt2_prefix", "digits", "llama3", "qwen2", "llama2", "metaspace", "unknown"}) {
        const Path path = testing::golden() / ("tokenizer_" + std::string(kind) + ".json");
        const auto golden = nlohmann::json::parse(read_file(path).value());
        const auto tokenizer = Tokenizer::parse(golden.at("tokenizer").dump()).value();
        for (const auto& one : golden.at("cases")) {
            const auto text = one.at(0).get<std::string>();
            const auto all = tokenizer.encode_marked(text, std::vector<Span>{{0, text.size()}});
            EXPECT_EQ(all.ids, one.at(1).get<std::vector<std::int32_t>>()) << one.at(0).dump();
            EXPECT_EQ(all.marked, std::vector<bool>(all.ids.size(), true)) << kind << one.at(0).dump();
            const auto none = tokenizer.encode_marked(text, {});
            EXPECT_EQ(none.marked, std::vector<bool>(all.ids.size(), false)) << kind << one.at(0).dump();
        }
    }
}

TEST(EncodeMarked, PlacesAreThoseOfTheText) {
    const auto golden = nlohmann::json::parse(read_file(testing::golden() / "tokenizer_llama2.json").value());
    const auto tokenizer = Tokenizer::parse(golden.at("tokenizer").dump()).value();
    const std::string text = "user: The 🦙</s>bot: doctor é";
    const std::vector<Span> spans{{text.find("🦙"), text.find("</s>")}, {text.find("doctor"), text.size()}};
    const auto marked = tokenizer.encode_marked(text, spans);
    std::vector<std::int32_t> in, out;
    for (std::size_t i = 0; i < marked.ids.size(); ++i)
        (marked.marked[i] ? in : out).push_back(marked.ids[i]);
    EXPECT_EQ(tokenizer.decode(in), "🦙doctor é");
    EXPECT_EQ(tokenizer.decode(out), "user: The  bot: ");
}

// The text that is learned from a file's rows, with a model folder that has this template.
Result<Dataset> load(const std::string& source, const std::string& lines, std::size_t sequence_length = 256) {
    const TemporaryFolder folder;
    folder.write("tokenizer.json", byte_tokenizer_json().dump());
    folder.write("chat_template.jinja", source);
    DatasetOptions options;
    options.sequence_length = sequence_length;
    options.eval_fraction = 0;
    FEDLLM_TRY(const auto tokenizer, Tokenizer::load_folder(folder.path()));
    return Dataset::load_jsonl(folder.write("rows.jsonl", lines), tokenizer, options);
}

std::string learned_text(const Example& example) {
    std::string text;
    for (const auto target : example.targets) {
        if (target != kIgnoreIndex) text += target < 256 ? std::string(1, static_cast<char>(target)) : "$";
    }
    return text;
}

constexpr const char* kTagged =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

TEST(DatasetChat, MessagesGoThroughTheModelsTemplate) {
    const auto data =
        load(kTagged,
             R"({"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"},)"
             R"({"role": "user", "content": "V"}, {"role": "assistant", "content": "é"}]})")
            .value();
    ASSERT_EQ(data.train().size(), 1u);
    EXPECT_EQ(learned_text(data.train()[0]),
              "A$é$");  // </s> is a token of the template's, learned with its turn
    EXPECT_EQ(data.train()[0].tokens.front(), '<');  // and no BOS but what the template writes
}

TEST(DatasetChat, OtherRowsDoNot) {
    const auto data = load("{{ nonsense.x }}", R"({"prompt": "P", "completion": "C"})").value();
    EXPECT_EQ(learned_text(data.train()[0]), "C$");
}

TEST(DatasetChat, ErrorsNameTheLine) {
    const std::string rows = R"({"text": "fine"})"
                             "\n"
                             R"({"messages": [{"role": "user", "content": "U"}, {"role": "assistant"}]})";
    const auto message = [&](const std::string& source) { return load(source, rows).error().message; };
    EXPECT_NE(message("{% include 'x' %}").find("rows.jsonl:2: "), std::string::npos)
        << message("{% include 'x' %}");
    EXPECT_NE(message("{% include 'x' %}").find("line 1: the statement 'include'"), std::string::npos);
    EXPECT_NE(message("{{ messages[1].content.x }}")
                  .find("rows.jsonl:2: chat template: line 1: 'content' is undefined"),
              std::string::npos)
        << message("{{ messages[1].content.x }}");
    const auto broken = load(kTagged, R"({"messages": [{"content": "U"}]})").error();
    EXPECT_NE(broken.message.find("rows.jsonl:1: messages[0].role: expected a string"), std::string::npos)
        << broken.message;
}

}  // namespace
}  // namespace fedllm::client::data
