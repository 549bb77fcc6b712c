#include "common/jinja/template.hpp"

#include <gtest/gtest.h>

#include "common/jinja/json_value.hpp"

namespace fedllm::jinja {
namespace {

Result<Rendered> render(const std::string& source, const Variables& variables = {}) {
    FEDLLM_TRY(const auto parsed, Template::parse(source));
    return parsed.render(variables, std::tm{});
}

void expect_error(const std::string& source, Errc code, const std::string& part) {
    const auto result = render(source);
    ASSERT_FALSE(result.has_value()) << source.substr(0, 200);
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << result.error().message;
}

TEST(Template, GenerationIsReportedInBytes) {
    const auto rendered =
        render("é{% for x in ['ü', 'a'] %}<{% generation %}{{ x }}!{% endgeneration %}>{% endfor %}").value();
    EXPECT_EQ(rendered.text, "é<ü!><a!>");
    EXPECT_EQ(rendered.generated, (std::vector<Span>{{3, 6}, {8, 10}}));
    EXPECT_TRUE(
        Template::parse("{% if x %}{% generation %}{% endgeneration %}{% endif %}").value().has_generation());
    EXPECT_FALSE(Template::parse("{{ 'generation' }}").value().has_generation());
}

TEST(Template, WhatWeLackIsNamedWithItsLineAndWhatIsSupported) {
    expect_error("a\n\n{% include 'x' %}", Errc::Unsupported,
                 "line 3: the statement 'include' is not supported; supported are for,");
    expect_error("{% for x in [1] recursive %}{% endfor %}", Errc::Unsupported, "a recursive loop");
    expect_error("\n{{ 1 | urlencode }}", Errc::Unsupported,
                 "line 2: the filter 'urlencode' is not supported; supported are abs,");
    expect_error("{{ 1 is filter }}", Errc::Unsupported,
                 "the test 'filter' is not supported; supported are defined,");
    expect_error("{{ ''.zfill(3) }}", Errc::Unsupported,
                 "the method .zfill() of a string is not supported; supported are strip");
    expect_error("{{ [].append(1) }}", Errc::Unsupported, "the method .append() of a list");
    expect_error("{{ cycler(1) }}", Errc::InvalidData,
                 "'cycler' is called and is undefined; the functions are range,");
    expect_error("{{ 'é' | upper }}", Errc::Unsupported, "upper case of text beyond ASCII");
    expect_error("{{ 2 ** 3 }}", Errc::Unsupported, "'**'");
    expect_error("{% for x in [1] %}{% macro m() %}{% endmacro %}{% endfor %}", Errc::Unsupported,
                 "a macro inside a loop");
    expect_error("{% macro m() %}{% generation %}{% endgeneration %}{% endmacro %}", Errc::Unsupported,
                 "generation inside a macro");
    expect_error("{% macro m() %}{{ varargs }}{% endmacro %}{{ m() }}", Errc::Unsupported, "'varargs'");
    expect_error("{{ 9223372036854775807 + 1 }}", Errc::Unsupported, "beyond 64 bits");
    expect_error("{{ range(2).items }}{{ {}.items() | map('upper') | length }}", Errc::InvalidData,
                 "a generator has no length");
    expect_error("{% set g = [1] | map('abs') %}{{ g | list }}{{ g | list }}", Errc::Unsupported,
                 "a generator is read twice");
    expect_error("{{ raise_exception('no tools') }}", Errc::InvalidData,
                 "line 1: the template refuses this: no tools");
}

std::string nested(const std::string& open, const std::string& middle, const std::string& close, int depth) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += open;
    text += middle;
    for (int i = 0; i < depth; ++i) text += close;
    return text;
}

TEST(Template, HostileOnesAreStopped) {
    const auto big = [](const std::string& source) { expect_error(source, Errc::TooLarge, ""); };
    big("{{ " + nested("(", "1", ")", 100000) + " }}");
    big("{{ " + nested("[", "", "]", 100000) + " }}");
    big("{{ " + nested("not ", "1", "", 100000) + " }}");
    big("{{ " + nested("-", "1", "", 100000) + " }}");
    for (const char* part : {"+1", ".a", "|list", " and 1", " if 1", "[0]", "()", " is defined", "*1"}) {
        big("{{ 1" + nested(part, "", "", 100000) + " }}");
    }
    big("{% macro m(n) %}{{ (((((((((((((((((m(n))))))))))))))))))" + nested("+1", "", "", 200) +
        " }}{% endmacro %}{{ m(1) }}");
    std::string keys;
    for (int i = 0; i < 50000; ++i) keys += std::to_string(i) + ": 1, ";
    big("{{ {" + keys + "} }}");
    big(nested("{% if 1 %}", "", "{% endif %}", 20000));
    big(std::string((std::size_t{1} << 20) + 1, ' '));
    big("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}");
    big("{{ range(10000000) | list }}");
    big("{{ 'a' * 1000000000 }}");
    big("{{ [1] * 9223372036854775807 }}");
    big("{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor "
        "%}");
    big("{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) "
        "%}{% endfor %}");
    big("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
        "ns.x }}");
    big("{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}");
    big("{% set ns = namespace(x=1) %}{% for i in range(100000) %}{{ ns.x | tojson(indent=100) }}{% endfor "
        "%}");
    big("{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}");
    big("{{ 'a' | indent(100000) }}");
    big("{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{{ x == x ~ '' }}{% endfor %}");
}

TEST(Template, NamespacesThatHoldEachOtherAreFreed) {  // the leak checker of the sanitizers watches
    EXPECT_TRUE(
        render("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = [b] %}{% set a.a = a %}")
            .has_value());
}

TEST(Template, RendersManyTimesAlike) {
    const auto parsed = Template::parse("{% set x = x + 1 %}{{ x }}").value();
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(parsed.render({{"x", Value(std::int64_t{1})}}, std::tm{}).value().text, "2");
    }
}

}  // namespace
}  // namespace fedllm::jinja
