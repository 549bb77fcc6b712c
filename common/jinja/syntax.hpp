// A parsed template.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/jinja/value.hpp"

namespace fedllm::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct Expression {
    enum class Kind {
        Constant,
        Variable,     // name
        List,         // children
        Tuple,        // children
        Dict,         // children: key, value, key, value, ...
        Attribute,    // children[0].name
        Item,         // children[0][children[1]]
        Slice,        // children[0][children[1]:children[2]:children[3]], null where absent
        Call,         // children[0](arguments)
        Filter,       // children[0] | name(arguments)
        Test,         // children[0] is name(arguments)
        Not,          // children[0]
        Negate,       // -children[0]
        And,          // children[0], children[1]
        Or,           //
        Arithmetic,   // children[0] name children[1]
        Concatenate,  // children: a ~ b ~ ...
        Compare,      // children[0] names[0] children[1] names[1] children[2] ...
        Conditional,  // children[0] if children[1] else children[2], null where absent
    };
    Kind kind = Kind::Constant;
    int line = 0;
    int depth = 0;  // of the tree below
    std::string name;
    Value value;
    std::vector<ExpressionPtr> children;
    std::vector<std::string> names;  // of a call, filter or test: the names of its last arguments
};

struct Statement;
using Block = std::vector<std::unique_ptr<const Statement>>;

struct Statement {
    enum class Kind {
        Data,        // text
        Output,      // expressions[0]
        If,          // expressions[i] ? bodies[i]; one more body is the else
        For,         // names in expressions[0] if expressions[1]: bodies[0] else bodies[1]
        Set,         // names (or text.names[0], a namespace's) = expressions[0]
        SetBlock,    // names[0] = bodies[0], filtered by expressions[0], whose innermost operand is the
                     // variable ""
        Macro,       // text(names = expressions, null where there is no default): bodies[0]
        Generation,  // bodies[0]
        Break,
        Continue,
    };
    Kind kind = Kind::Data;
    int line = 0;
    std::string text;
    std::vector<std::string> names;
    std::vector<ExpressionPtr> expressions;
    std::vector<Block> bodies;
};

}  // namespace fedllm::jinja
