#include <gtest/gtest.h>

#include "common/config/yaml.hpp"

namespace fedllm {

enum class Colour { Red, DarkBlue };

template <>
struct config::EnumNames<Colour> {
    static constexpr std::array<std::pair<Colour, std::string_view>, 2> rows{
        {{Colour::Red, "red"}, {Colour::DarkBlue, "dark_blue"}}};
};

namespace {

struct Sample {
    std::string title;
    std::uint16_t port = 80;
    double rate = 0.5;
    bool enabled = false;
    Duration idle = std::chrono::seconds(90);
    config::ByteCount cache{1024};
    std::vector<std::string> sites;
    Colour colour = Colour::Red;
    std::string token;
    bool operator==(const Sample&) const = default;
};

const config::Table<Sample>& table() {
    using config::field;
    using C = Sample;
    static const config::Table<C> fields{
        field<C>("title", [](auto& c) -> auto& { return c.title; }, "a title", {.required = true}),
        field<C>("net.port", [](auto& c) -> auto& { return c.port; }, "a port", {.min = 1}),
        field<C>("net.rate", [](auto& c) -> auto& { return c.rate; }, "a rate", {.min = 0, .max = 1}),
        field<C>("net.idle", [](auto& c) -> auto& { return c.idle; }, "a wait", {.min = 0.1}),
        field<C>(
            "enabled", [](auto& c) -> auto& { return c.enabled; }, "on or off"),
        field<C>(
            "cache", [](auto& c) -> auto& { return c.cache; }, "a size"),
        field<C>(
            "sites", [](auto& c) -> auto& { return c.sites; }, "names"),
        field<C>(
            "colour", [](auto& c) -> auto& { return c.colour; }, "a colour"),
        field<C>("token", [](auto& c) -> auto& { return c.token; }, "hush", {.secret = true}),
    };
    return fields;
}

Result<Sample> parse(const std::string& text) { return config::parse_yaml(text, "s.yaml", table()); }

TEST(Config, ReadsEveryTypeAndKeepsDefaults) {
    const auto sample = parse(
        "title: a b\nnet:\n  port: 443\n  idle: 250ms\nenabled: true\ncache: 2 MiB\nsites: [x, y]\n"
        "colour: dark_blue\n");
    ASSERT_TRUE(sample) << to_string(sample.error());
    Sample expected;
    expected.title = "a b";
    expected.port = 443;
    expected.idle = Duration(250);
    expected.enabled = true;
    expected.cache = {2 << 20};
    expected.sites = {"x", "y"};
    expected.colour = Colour::DarkBlue;
    EXPECT_EQ(*sample, expected);
}

TEST(Config, PrintedTextReadsBackEqual) {
    Sample sample;
    sample.title = "needs: \"quotes\" # and \\ care";
    sample.rate = 0.1;
    sample.idle = std::chrono::minutes(3);
    sample.sites = {"a", "true", "-x", ""};
    for (const auto comments : {config::Comments::No, config::Comments::Yes}) {
        const auto again = parse(config::print_yaml(sample, table(), comments));
        ASSERT_TRUE(again) << to_string(again.error());
        sample.token = "<redacted>";
        EXPECT_EQ(*again, sample);
        sample.token = "";
    }
}

TEST(Config, SecretsAreNotPrinted) {
    Sample sample;
    sample.token = "hunter2";
    EXPECT_EQ(config::print_yaml(sample, table()).find("hunter2"), std::string::npos);
}

struct BadCase {
    const char* text;
    const char* message;
};

class ConfigErrors : public testing::TestWithParam<BadCase> {};

TEST_P(ConfigErrors, NameFileLineKeyAndRemedy) {
    const auto sample = parse(GetParam().text);
    ASSERT_FALSE(sample);
    EXPECT_EQ(sample.error().code, Errc::InvalidConfig);
    EXPECT_NE(sample.error().message.find(GetParam().message), std::string::npos) << sample.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    Table, ConfigErrors,
    testing::Values(BadCase{"title: x\nnet:\n  prot: 1\n",
                            "s.yaml:3: net.prot: unknown key; did you mean 'net.port'?"},
                    BadCase{"title: x\nnet:\n  port: 0\n", "s.yaml:3: net.port: must be at least 1"},
                    BadCase{"title: x\nnet:\n  port: 70000\n", "s.yaml:3: net.port: the number is too large"},
                    BadCase{"title: x\nnet:\n  port: -1\n", "is not a whole number of 0 or more"},
                    BadCase{"title: x\nnet:\n  port: 1.5\n", "'1.5' is not a whole number"},
                    BadCase{"title: x\nnet:\n  rate: 2\n", "must be at most 1"},
                    BadCase{"title: x\nnet:\n  rate: .nan\n", "'.nan' is not"},
                    BadCase{"title: x\nnet:\n  idle: 5 parsecs\n", "'5 parsecs' is not a duration"},
                    BadCase{"title: x\nnet: 5\n", "s.yaml:2: net: this is a section"},
                    BadCase{"title: x\ncache: 2 potatoes\n", "is not a size"},
                    BadCase{"title: x\nenabled: yes\n", "'yes' is not true or false"},
                    BadCase{"title: x\ncolour: green\n", "'green' is not one of red, dark_blue"},
                    BadCase{"title: x\ntitle: y\n", "title: this key is given twice"},
                    BadCase{"title: [a, b]\n", "expected one value, not a list"},
                    BadCase{"title: {a: 1}\n", "expected one value, not a section"},
                    BadCase{"net:\n  port: 5\n", "s.yaml: title: this key is required"},
                    BadCase{"title: [x\n", "not valid YAML"},
                    BadCase{"- a\n- b\n", "expected 'key: value' lines"}));

TEST(Config, ReferencePageListsEveryKey) {
    const std::string page = config::reference_page("Sample", table());
    for (const auto& field : table())
        EXPECT_NE(page.find("`" + field.key + "`"), std::string::npos) << field.key;
    EXPECT_NE(page.find("| `net.port` | integer | `80` | >= 1 | a port |"), std::string::npos) << page;
}

TEST(Config, DurationsAndSizesHaveUnits) {
    EXPECT_EQ(config::parse_duration("2h").value(), std::chrono::hours(2));
    EXPECT_EQ(config::parse_byte_count("1.5 KiB").value().bytes, 1536u);
    EXPECT_EQ(config::print_duration(std::chrono::seconds(90)), "90s");
    EXPECT_EQ(config::print_byte_count({3 << 20}), "3 MiB");
    for (const char* bad : {"", "5", "s", "-5s", "1e999s", "nan s", "99999999d"}) {
        EXPECT_FALSE(config::parse_duration(bad)) << bad;
    }
    for (const char* bad : {"", "KiB", "-1", "1 XiB", "1e30"})
        EXPECT_FALSE(config::parse_byte_count(bad)) << bad;
}

}  // namespace
}  // namespace fedllm
