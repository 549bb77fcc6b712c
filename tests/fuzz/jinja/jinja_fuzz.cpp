// Any bytes as a template: refused, or rendered within its limits, twice alike.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "common/base/text.hpp"
#include "common/jinja/json_value.hpp"
#include "common/jinja/template.hpp"

using namespace fedllm;

namespace {

jinja::Variables variables() {
    const auto values = nlohmann::ordered_json::parse(R"({
        "messages": [{"role": "system", "content": "Be\n brief"},
                     {"role": "user", "content": "Grüße 🦙"},
                     {"role": "assistant", "content": "<think>x</think>y",
                      "tool_calls": [{"function": {"name": "f"}}]}],
        "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": ["x", null, 1.5]}}}}}],
        "bos_token": "<s>", "add_generation_prompt": true, "none": null, "list": [3, 1, 2]})");
    jinja::Variables result;
    for (const auto& [name, value] : values.items())
        result.emplace_back(name, jinja::from_json(value).value());
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const jinja::Variables given = variables();
    const auto parsed = jinja::Template::parse(std::string_view(reinterpret_cast<const char*>(data), size));
    if (!parsed) {
        FEDLLM_CHECK(!parsed.error().message.empty());
        return 0;
    }
    const auto first = parsed->render(given, std::tm{});
    const auto second = parsed->render(given, std::tm{});
    FEDLLM_CHECK(first.has_value() == second.has_value(), "renderings do not differ");
    if (!first) return 0;
    FEDLLM_CHECK(first->text == second->text, "renderings do not differ");
    FEDLLM_CHECK(is_utf8(first->text), "the output is UTF-8");
    std::size_t end = 0;
    for (const auto& span : first->generated) {
        FEDLLM_CHECK(end <= span.begin && span.begin <= span.end && span.end <= first->text.size(),
                     "spans are in order");
        end = span.end;
    }
    return 0;
}
