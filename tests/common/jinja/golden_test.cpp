// Many small templates against what transformers' environment makes of them (golden/).
#include <gtest/gtest.h>

#include "common/base/files.hpp"
#include "common/jinja/json_value.hpp"
#include "common/jinja/template.hpp"

namespace fedllm::jinja {
namespace {

std::tm golden_time() {
    std::tm now{};
    now.tm_year = 125, now.tm_mon = 2, now.tm_mday = 9, now.tm_hour = 14, now.tm_min = 5, now.tm_sec = 6;
    now.tm_wday = 0, now.tm_yday = 67;
    return now;
}

Result<std::string> render(const std::string& source, const Variables& variables) {
    FEDLLM_TRY(const auto parsed, Template::parse(source));
    FEDLLM_TRY(auto rendered, parsed.render(variables, golden_time()));
    return std::move(rendered.text);
}

TEST(JinjaGolden, SameTextOrRefused) {
    const auto text = read_file("tests/common/jinja/golden/cases.json").value();
    const auto golden = nlohmann::ordered_json::parse(text);
    Variables variables;
    for (const auto& [name, value] : golden.at("variables").items()) {
        variables.emplace_back(name, from_json(value).value());
    }
    std::size_t equal = 0, unsupported = 0;
    for (const auto& one : golden.at("cases")) {
        const auto source = one.at(0).get<std::string>();
        const auto ours = render(source, variables);
        if (one.at(1).is_null()) {
            EXPECT_FALSE(ours.has_value()) << source << "\nours: " << *ours;
        } else if (ours) {
            EXPECT_EQ(*ours, one.at(1).get<std::string>()) << source;
            ++equal;
        } else {
            // What we lack is refused as such, and there is little of it.
            EXPECT_EQ(ours.error().code, Errc::Unsupported) << source << "\n" << ours.error().message;
            EXPECT_NE(ours.error().message.find("line 1: "), std::string::npos) << ours.error().message;
            ++unsupported;
            RecordProperty("unsupported" + std::to_string(unsupported),
                           source + " : " + ours.error().message);
            if (std::getenv("FEDLLM_VERBOSE"))
                std::printf("%s : %s\n", source.c_str(), ours.error().message.c_str());
        }
    }
    EXPECT_GT(equal, 190u);
    EXPECT_LE(unsupported, 14u);
}

}  // namespace
}  // namespace fedllm::jinja
