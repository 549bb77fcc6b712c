// Any bytes as a file or an answer that the tools read; the first byte says which: the hub's list of files,
// multiple-choice questions as JSON or CSV, patterns of an adapter.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "client/data/choices.hpp"
#include "common/formats/peft_patterns.hpp"
#include "tools/hub/repository.hpp"

using namespace fedllm;

namespace {

void read_listing(std::string_view text) {
    const auto repository = tools::hub::parse_repository(text, "fuzz");
    if (!repository) return;
    for (const auto& file : repository->files) {
        FEDLLM_CHECK(!file.path.empty() && file.path.front() != '/', "paths are relative");
        FEDLLM_CHECK(("/" + file.path + "/").find("/../") == std::string::npos, "paths stay inside");
        const bool git = file.kind == tools::hub::HashKind::GitBlob;
        FEDLLM_CHECK(file.etag.size() == (git ? 40U : 64U), "there is a hash");
        FEDLLM_CHECK(file.etag.find_first_not_of("0123456789abcdef") == std::string::npos, "of digits");
    }
}

void read_questions(std::string_view text) {
    const int fd = ::memfd_create("fuzz", MFD_CLOEXEC);
    FEDLLM_CHECK(fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()),
                 "a file");
    for (const auto style : {client::data::ChoiceStyle::Text, client::data::ChoiceStyle::Letters}) {
        const auto questions = client::data::load_choices("/proc/self/fd/" + std::to_string(fd), style);
        if (!questions) continue;
        for (const auto& question : *questions) {
            FEDLLM_CHECK(question.choices.size() >= 2 && question.answer < question.choices.size(),
                         "an answer");
        }
    }
    ::close(fd);
}

void read_csv(std::string_view text) {
    const auto records = client::data::parse_csv(text, "fuzz");
    if (!records) return;
    std::size_t bytes = 0;
    for (const auto& record : *records) {
        for (const auto& field : record) bytes += field.size();
    }
    FEDLLM_CHECK(bytes <= text.size(), "no byte is used twice");
}

void read_patterns(std::string_view text) {
    const auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    const auto patterns = formats::ModulePatterns::parse(json, 1, 64);
    if (!patterns) return;
    const auto value = patterns->find("model.layers.10.self_attn.q_proj");
    FEDLLM_CHECK(!value || (*value >= 1 && *value <= 64), "values are within bounds");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 4) {
        case 0: read_listing(text); break;
        case 1: read_questions(text); break;
        case 2: read_csv(text); break;
        default: read_patterns(text); break;
    }
    return 0;
}
