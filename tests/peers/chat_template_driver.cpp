// peer_chat_template [TOKENIZER_JSON]: for each line {"template", "variables", "messages", "tools"?,
// "prompt", "now": [year, month, day, hour, minute, second, weekday, day of the year], "mode"} answers
//   mode "render": {"text", "spans"}: the rendering and what its {% generation %} blocks printed, in bytes
//   mode "ids": {"ids", "marked"}: that text's ids, and which of them the blocks marked
//   mode "texts": [{"text", "spans"}, ...]: what a data set learns
// or {"error"}.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "client/data/chat_row.hpp"
#include "client/data/tokenizer.hpp"
#include "common/jinja/json_value.hpp"

using namespace fedllm;
using namespace fedllm::client::data;
using Json = nlohmann::ordered_json;

namespace {

std::tm time_of(const Json& fields) {
    std::tm now{};
    now.tm_year = fields[0].get<int>() - 1900;
    now.tm_mon = fields[1].get<int>() - 1;
    now.tm_mday = fields[2].get<int>();
    now.tm_hour = fields[3].get<int>();
    now.tm_min = fields[4].get<int>();
    now.tm_sec = fields[5].get<int>();
    now.tm_wday = fields[6].get<int>();
    now.tm_yday = fields[7].get<int>();
    return now;
}

Json spans_json(const std::vector<jinja::Span>& spans) {
    Json list = Json::array();
    for (const auto& span : spans) list.push_back({span.begin, span.end});
    return list;
}

Result<Json> answer(const Json& request, const std::optional<Tokenizer>& tokenizer) {
    jinja::Variables variables;
    for (const auto& [name, value] : request.at("variables").items()) {
        FEDLLM_TRY(auto converted, jinja::from_json(value));
        variables.emplace_back(name, std::move(converted));
    }
    FEDLLM_TRY(const auto chat,
               ChatTemplate::parse(request.at("template").get<std::string>(), std::move(variables)));
    FEDLLM_TRY(const auto conversation, Conversation::parse(request));
    const auto mode = request.at("mode").get<std::string>();
    if (mode == "texts") {
        FEDLLM_TRY(const auto texts, chat_texts(conversation, chat));
        Json list = Json::array();
        for (const auto& text : texts)
            list.push_back({{"text", text.text}, {"spans", spans_json(text.learned)}});
        return list;
    }
    const auto prompt = request.at("prompt").get<bool>() ? GenerationPrompt::Yes : GenerationPrompt::No;
    FEDLLM_TRY(const auto rendered,
               chat.render(conversation, conversation.messages.size(), prompt, time_of(request.at("now"))));
    if (mode == "render") return Json{{"text", rendered.text}, {"spans", spans_json(rendered.generated)}};
    const auto marked = tokenizer->encode_marked(rendered.text, rendered.generated);
    return Json{{"ids", marked.ids}, {"marked", marked.marked}};
}

}  // namespace

int main(int count, char** arguments) {
    std::optional<Tokenizer> tokenizer;
    if (count == 2) {
        auto loaded = Tokenizer::load(arguments[1]);
        if (!loaded) {
            std::fprintf(stderr, "%s\n", to_string(loaded.error()).c_str());
            return 1;
        }
        tokenizer = std::move(*loaded);
    }
    std::ios::sync_with_stdio(false);
    for (std::string line; std::getline(std::cin, line);) {
        const auto result = answer(Json::parse(line), tokenizer);
        std::cout << (result ? *result : Json{{"error", result.error().message}}).dump() << '\n';
    }
    return 0;
}
