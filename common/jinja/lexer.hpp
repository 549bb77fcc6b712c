// Template text to tokens, with Jinja's whitespace control. trim_blocks and lstrip_blocks are on, as
// transformers has them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"

namespace fedllm::jinja {

struct Token {
    enum class Kind {
        Data,
        OutputBegin,
        OutputEnd,
        BlockBegin,
        BlockEnd,
        Name,
        String,
        Integer,
        Real,
        Operator,
        End
    };
    Kind kind = Kind::End;
    int line = 0;
    std::string text;  // of a string, what it stands for; of an operator, its spelling

    bool is(Kind other, std::string_view spelling) const { return kind == other && text == spelling; }
};

// The tokens, and one End after them. InvalidFile "line N: ..." where the text is no template.
Result<std::vector<Token>> tokenize(std::string_view source);

// An error about a place in a template.
Error template_error(Errc code, int line, const std::string& what);

}  // namespace fedllm::jinja
