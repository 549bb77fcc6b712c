#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/philox.hpp"
#include "tests/fuzz/corpus.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fedllm {
namespace {

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

// The templates of the golden tests.
std::vector<std::string> seeds() {
    std::vector<std::string> all{""};
    for (const auto& file : std::filesystem::directory_iterator("tests/client/data/golden/chat")) {
        all.push_back(read_file(file.path()).value());
    }
    const auto cases = nlohmann::json::parse(read_file("tests/common/jinja/golden/cases.json").value());
    for (const auto& one : cases.at("cases")) all.push_back(one.at(0).get<std::string>());
    return all;
}

// Flips, overwrites with telling characters or pieces, removes or doubles a piece, or brings one from another
// seed.
std::string mutate(std::string text, const std::vector<std::string>& others, Rng& rng) {
    constexpr std::string_view kTelling = "{}%#-+|~.,:()[]'\"\\ \n0";
    const std::string pieces[] = {"{% for x in messages %}",
                                  "{% endfor %}",
                                  "{%- if x -%}",
                                  "{% endif %}",
                                  "{{ messages",
                                  " }}",
                                  "|tojson",
                                  "|list",
                                  "[::-1]",
                                  ".items()",
                                  " is defined",
                                  "namespace(",
                                  "loop.",
                                  "{% set x = ",
                                  " %}",
                                  "9223372036854775807",
                                  "{% generation %}",
                                  "{% endgeneration %}"};
    const auto times = 1 + rng.below(4);
    for (std::uint64_t i = 0; i < times; ++i) {
        const auto at = static_cast<std::size_t>(rng.below(text.size() + 1));
        const auto count =
            static_cast<std::size_t>(rng.below(std::min<std::size_t>(text.size() - at, 40) + 1));
        switch (rng.below(6)) {
            case 0:
                if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8)));
                break;
            case 1: text.insert(at, 1, kTelling[static_cast<std::size_t>(rng.below(kTelling.size()))]); break;
            case 2: text.erase(at, count); break;
            case 3: text.insert(at, text.substr(at, count)); break;
            case 4: text.insert(at, pieces[rng.below(std::size(pieces))]); break;
            default: {
                const std::string& other = others[static_cast<std::size_t>(rng.below(others.size()))];
                const auto from = static_cast<std::size_t>(rng.below(other.size() + 1));
                text.insert(at, other.substr(from, static_cast<std::size_t>(rng.below(60))));
            }
        }
    }
    return text;
}

TEST(JinjaFuzz, SeedsAndTheirMutationsNeverCrash) {
    Rng rng(1, "fuzz/jinja");
    const auto all = seeds();
    for (const std::string& seed : all) {
        run(seed);
        for (int i = 0; i < 400; ++i) run(mutate(seed, all, rng));
    }
}

TEST(JinjaFuzz, TheCorpusNeverCrashes) {
    for (const std::string& seed : fuzz::corpus("jinja")) run(seed);
}

}  // namespace
}  // namespace fedllm
