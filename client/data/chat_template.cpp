#include "client/data/chat_template.hpp"

#include <utility>

#include "client/data/json_fields.hpp"
#include "common/jinja/json_value.hpp"

namespace fedllm::client::data {
namespace {

constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

Result<Json> read_object(const Path& path) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return Json::object();
    FEDLLM_TRY(const auto text, read_file(path));
    auto json = parse_json(text);
    if (!json) return with_context(json.error(), path.string());
    if (!json->is_object()) return make_error(Errc::InvalidFile, path.string() + ": expected an object");
    return json;
}

// "bos_token": "<s>" or {"content": "<s>", ...}.
void add_special_tokens(const Json& config, jinja::Variables& variables) {
    for (const char* key : kSpecialTokens) {
        const auto found = config.find(key);
        if (found == config.end()) continue;
        const Json& value = found->is_object() && found->contains("content") ? found->at("content") : *found;
        if (value.is_string()) variables.emplace_back(key, jinja::Value(value.get<std::string>()));
    }
}

struct Sources {
    std::optional<std::string> plain;
    std::optional<std::string> tool_use;
};

Result<Sources> named_sources(const JsonField& list) {
    Sources sources;
    for (std::size_t i = 0; i < list.value().size(); ++i) {
        FEDLLM_TRY(const auto name, list.element(i).text("name"));
        FEDLLM_TRY(auto source, list.element(i).text("template"));
        if (name == "default")
            sources.plain = std::move(source);
        else if (name == "tool_use")
            sources.tool_use = std::move(source);
    }
    if (!sources.plain) return list.error("none of the templates is named 'default'");
    return sources;
}

Result<Sources> find_sources(const Path& folder, const Json& config) {
    const Path file = folder / "chat_template.jinja";
    std::error_code ignored;
    if (std::filesystem::exists(file, ignored)) {
        FEDLLM_TRY(auto source, read_file(file));
        return Sources{std::move(source), std::nullopt};
    }
    const JsonField field = JsonField(config, "").member_or_null("chat_template");
    if (field.is_null()) return Sources{};
    if (field.value().is_array()) return named_sources(field);
    FEDLLM_TRY(auto source, field.as_text());
    return Sources{std::move(source), std::nullopt};
}

// What transformers does to a message before the template sees it.
Result<jinja::Value> prepare_message(const jinja::Value& message) {
    std::vector<std::pair<jinja::Value, jinja::Value>> entries;
    const jinja::Value* reasoning = nullptr;
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
        const auto* value = message.mapping()->find(name);
        if (!reasoning && value && !value->is_none()) reasoning = value;
    }
    if (reasoning) entries.emplace_back(jinja::Value(std::string("thinking")), *reasoning);
    for (const auto& [key, value] : message.mapping()->entries) {
        if (!value.is_none()) entries.emplace_back(key, value);
    }
    if (reasoning) entries.emplace_back(jinja::Value(std::string("reasoning_content")), *reasoning);
    return jinja::make_mapping(std::move(entries));
}

Error bad_message(std::size_t index, const std::string& what) {
    return make_error(Errc::InvalidData, "messages[" + std::to_string(index) + "]" + what);
}

}  // namespace

Result<Conversation> Conversation::parse(const nlohmann::ordered_json& row) {
    const auto messages = row.find("messages");
    if (messages == row.end() || !messages->is_array()) {
        return make_error(Errc::InvalidData, "messages: expected an array");
    }
    Conversation result;
    for (std::size_t i = 0; i < messages->size(); ++i) {
        const auto& message = (*messages)[i];
        if (!message.is_object()) return bad_message(i, ": expected an object");
        const auto role = message.find("role");
        if (role == message.end() || !role->is_string()) return bad_message(i, ".role: expected a string");
        auto value = jinja::from_json(message);
        if (!value) return bad_message(i, ": " + value.error().message);
        FEDLLM_TRY(auto prepared, prepare_message(*value));
        result.messages.push_back(std::move(prepared));
    }
    if (const auto tools = row.find("tools"); tools != row.end() && !tools->is_null()) {
        if (!tools->is_array()) return make_error(Errc::InvalidData, "tools: expected an array");
        FEDLLM_TRY(result.tools, jinja::from_json(*tools));
    }
    return result;
}

const std::string& Conversation::role(std::size_t message) const {
    return *messages[message].mapping()->find("role")->text();
}

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, jinja::Variables variables) {
    ChatTemplate result;
    FEDLLM_TRY(result.default_, jinja::Template::parse(source));
    result.variables_ = std::move(variables);
    return result;
}

Result<std::optional<ChatTemplate>> ChatTemplate::load_folder(const Path& folder) {
    FEDLLM_TRY(const Json map, read_object(folder / "special_tokens_map.json"));
    FEDLLM_TRY(const Json config, read_object(folder / "tokenizer_config.json"));
    auto sources = find_sources(folder, config);
    if (!sources) return with_context(sources.error(), folder.string());
    if (!sources->plain) return std::optional<ChatTemplate>();
    jinja::Variables variables;
    add_special_tokens(map, variables);
    add_special_tokens(config, variables);  // later ones count
    auto result = parse(*sources->plain, std::move(variables));
    if (!result) return with_context(result.error(), folder.string() + ": chat template");
    if (sources->tool_use) {
        auto tool_use = jinja::Template::parse(*sources->tool_use);
        if (!tool_use) return with_context(tool_use.error(), folder.string() + ": chat template 'tool_use'");
        result->tool_use_ = std::move(*tool_use);
    }
    return std::optional<ChatTemplate>(std::move(*result));
}

const jinja::Template& ChatTemplate::pick(const Conversation& conversation) const {
    return tool_use_ && !conversation.tools.is_none() ? *tool_use_ : default_;
}

Result<jinja::Rendered> ChatTemplate::render(const Conversation& conversation, std::size_t count,
                                             GenerationPrompt prompt, const std::tm& now) const {
    std::vector<jinja::Value> messages(conversation.messages.begin(),
                                       conversation.messages.begin() + static_cast<std::ptrdiff_t>(count));
    FEDLLM_TRY(auto list, jinja::make_sequence(std::move(messages)));
    jinja::Variables variables = variables_;
    variables.emplace_back("messages", std::move(list));
    variables.emplace_back("tools", conversation.tools);
    variables.emplace_back("documents", jinja::Value());
    variables.emplace_back("add_generation_prompt", jinja::Value(prompt == GenerationPrompt::Yes));
    auto rendered = pick(conversation).render(variables, now);
    if (!rendered) return with_context(rendered.error(), "chat template");
    return rendered;
}

}  // namespace fedllm::client::data
