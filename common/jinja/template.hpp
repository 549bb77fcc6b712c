// Jinja templates, the part of the language that chat templates are written in, rendered as transformers
// renders them: trim_blocks and lstrip_blocks on, its own tojson, raise_exception, strftime_now, break and
// continue, and
// {% generation %} blocks whose places are reported.
//
// Limits: templates are not trusted. Source, nesting, evaluation steps, memory made on the way and output are
// bounded; nothing outside of the values given can be reached. What is not supported is refused by name and
// line: statements and operators at parse; filters, tests, methods and functions when they are reached, since
// templates ask for some only where others are absent.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.hpp"
#include "common/jinja/syntax.hpp"
#include "common/jinja/value.hpp"

namespace fedllm::jinja {

inline constexpr std::size_t kOutputBytesMax = std::size_t{32} << 20;

struct Span {  // bytes of the output
    std::size_t begin = 0;
    std::size_t end = 0;

    bool operator==(const Span&) const = default;
};

struct Rendered {
    std::string text;
    std::vector<Span> generated;  // what {% generation %} blocks printed, in order
};

using Variables = std::vector<std::pair<std::string, Value>>;

// Concurrency: immutable; render from any thread.
class Template {
public:
    static Result<Template> parse(std::string_view source);

    bool has_generation() const { return has_generation_; }

    // `now`: the local time that strftime_now writes. InvalidData where the template raises an exception.
    Result<Rendered> render(const Variables& variables, const std::tm& now) const;

private:
    Block body_;
    bool has_generation_ = false;
};

}  // namespace fedllm::jinja
