#include "common/jinja/expression_parser.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "common/jinja/parser.hpp"

namespace fedllm::jinja {

Token ExpressionParser::take() {
    Token taken = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return taken;
}

bool ExpressionParser::skip(std::string_view op) {
    const bool found = sees(op);
    if (found) take();
    return found;
}

bool ExpressionParser::skip_name(std::string_view name) {
    const bool found = sees_name(name);
    if (found) take();
    return found;
}

Result<void> ExpressionParser::expect(std::string_view op) {
    if (!skip(op)) return unexpected(std::string("'").append(op).append("'"));
    return {};
}

Result<std::string> ExpressionParser::expect_name(const char* what) {
    if (token().kind != Token::Kind::Name) return unexpected(what);
    return take().text;
}

Error ExpressionParser::unexpected(const std::string& wanted) const {
    using enum Token::Kind;
    const auto kind = token().kind;
    const std::string found = kind == End      ? "the end of the template"
                              : kind == String ? "a string"
                              : kind == Data   ? "text"
                                               : "'" + token().text + "'";
    return error("expected " + wanted + ", found " + found);
}

Result<void> ExpressionParser::check_depth() const {
    if (depth_ > kSyntaxDepthMax) {
        return template_error(Errc::TooLarge, token().line,
                              "nested more than " + std::to_string(kSyntaxDepthMax) + " deep");
    }
    return {};
}

ExpressionParser::Node ExpressionParser::make(Kind kind, int line, std::string name) {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->line = line;
    node->name = std::move(name);
    return node;
}

// Chains (a + b + c, a.b.c) are parsed by loops, but make trees that are walked and freed by recursion.
Result<ExpressionPtr> ExpressionParser::finish(Node node) {
    for (const auto& child : node->children) {
        if (child) node->depth = std::max(node->depth, child->depth + 1);
    }
    if (node->depth > kTreeDepthMax) {
        return template_error(
            Errc::TooLarge, node->line,
            "an expression has more than " + std::to_string(kTreeDepthMax) + " parts in a row");
    }
    return ExpressionPtr(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::expression() {
    const Nested nested(depth_);
    FEDLLM_TRY_VOID(check_depth());
    FEDLLM_TRY(auto value, disjunction());
    while (skip_name("if")) {
        auto node = make(Kind::Conditional, token().line);
        FEDLLM_TRY(auto condition, disjunction());
        ExpressionPtr otherwise;
        if (skip_name("else")) {
            FEDLLM_TRY(otherwise, expression());
        }
        node->children.push_back(std::move(value));
        node->children.push_back(std::move(condition));
        node->children.push_back(std::move(otherwise));
        FEDLLM_TRY(value, finish(std::move(node)));
    }
    return value;
}

Result<ExpressionPtr> ExpressionParser::without_conditional() { return disjunction(); }

Result<ExpressionPtr> ExpressionParser::tuple() {
    const int line = token().line;
    FEDLLM_TRY(auto first, expression());
    if (!sees(",")) return first;
    auto node = make(Kind::Tuple, line);
    node->children.push_back(std::move(first));
    while (skip(",")) {
        if (token().kind == Token::Kind::BlockEnd || token().kind == Token::Kind::OutputEnd || sees(")"))
            break;
        FEDLLM_TRY(auto next, expression());
        node->children.push_back(std::move(next));
    }
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::disjunction() {
    FEDLLM_TRY(auto left, conjunction());
    while (sees_name("or")) {
        auto node = make(Kind::Or, take().line);
        FEDLLM_TRY(auto right, conjunction());
        node->children.push_back(std::move(left));
        node->children.push_back(std::move(right));
        FEDLLM_TRY(left, finish(std::move(node)));
    }
    return left;
}

Result<ExpressionPtr> ExpressionParser::conjunction() {
    FEDLLM_TRY(auto left, negation());
    while (sees_name("and")) {
        auto node = make(Kind::And, take().line);
        FEDLLM_TRY(auto right, negation());
        node->children.push_back(std::move(left));
        node->children.push_back(std::move(right));
        FEDLLM_TRY(left, finish(std::move(node)));
    }
    return left;
}

Result<ExpressionPtr> ExpressionParser::negation() {
    if (!sees_name("not")) return comparison();
    const Nested nested(depth_);
    FEDLLM_TRY_VOID(check_depth());
    auto node = make(Kind::Not, take().line);
    FEDLLM_TRY(auto operand, negation());
    node->children.push_back(std::move(operand));
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::comparison() {
    const int line = token().line;
    FEDLLM_TRY(auto first, sum());
    auto node = make(Kind::Compare, line);
    node->children.push_back(std::move(first));
    while (true) {
        if (sees("==") || sees("!=") || sees("<") || sees("<=") || sees(">") || sees(">=") ||
            sees_name("in")) {
            node->names.push_back(take().text);
        } else if (sees_name("not") && following().is(Token::Kind::Name, "in")) {
            take();
            take();
            node->names.push_back("not in");
        } else {
            break;
        }
        FEDLLM_TRY(auto next, sum());
        node->children.push_back(std::move(next));
    }
    if (node->names.empty()) return std::move(node->children.front());
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::left_to_right(Operand operand,
                                                      std::initializer_list<std::string_view> operators) {
    FEDLLM_TRY(auto left, (this->*operand)());
    while (true) {
        bool found = false;
        for (const auto op : operators) found = found || sees(op);
        if (!found) return left;
        const Token op = take();
        auto node = make(Kind::Arithmetic, op.line, op.text);
        FEDLLM_TRY(auto right, (this->*operand)());
        node->children.push_back(std::move(left));
        node->children.push_back(std::move(right));
        FEDLLM_TRY(left, finish(std::move(node)));
    }
}

Result<ExpressionPtr> ExpressionParser::sum() {
    return left_to_right(&ExpressionParser::concatenation, {"+", "-"});
}

Result<ExpressionPtr> ExpressionParser::concatenation() {
    FEDLLM_TRY(auto first, product());
    if (!sees("~")) return first;
    auto node = make(Kind::Concatenate, token().line);
    node->children.push_back(std::move(first));
    while (skip("~")) {
        FEDLLM_TRY(auto next, product());
        node->children.push_back(std::move(next));
    }
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::product() {
    return left_to_right(&ExpressionParser::power, {"*", "/", "//", "%"});
}

Result<ExpressionPtr> ExpressionParser::power() {
    FEDLLM_TRY(auto base, unary(/*with_filters=*/true));
    if (sees("**"))
        return template_error(Errc::Unsupported, token().line, "the operator '**' is not supported");
    return base;
}

Result<ExpressionPtr> ExpressionParser::unary(bool with_filters) {
    const Nested nested(depth_);
    FEDLLM_TRY_VOID(check_depth());
    ExpressionPtr operand;
    if (sees("-") || sees("+")) {
        const Token sign = take();
        FEDLLM_TRY(operand, unary(/*with_filters=*/false));
        if (sign.text == "-") {
            auto node = make(Kind::Negate, sign.line);
            node->children.push_back(std::move(operand));
            FEDLLM_TRY(operand, finish(std::move(node)));
        }
    } else {
        FEDLLM_TRY(operand, primary());
    }
    FEDLLM_TRY(operand, postfix(std::move(operand)));
    return with_filters ? filters(std::move(operand)) : Result<ExpressionPtr>(std::move(operand));
}

Result<ExpressionPtr> ExpressionParser::primary() {
    const Token& next = token();
    if (next.kind == Token::Kind::Name) {
        const Token name = take();
        auto node = make(Kind::Constant, name.line, name.text);
        if (name.text == "true" || name.text == "True")
            node->value = Value(true);
        else if (name.text == "false" || name.text == "False")
            node->value = Value(false);
        else if (name.text != "none" && name.text != "None")
            node->kind = Kind::Variable;
        return finish(std::move(node));
    }
    if (next.kind == Token::Kind::String) {
        auto node = make(Kind::Constant, next.line);
        std::string text;
        while (token().kind == Token::Kind::String) text += take().text;
        node->value = Value(std::move(text));
        return finish(std::move(node));
    }
    if (next.kind == Token::Kind::Integer || next.kind == Token::Kind::Real) return number();
    if (sees("(")) return parenthesis();
    if (sees("[")) return list();
    if (sees("{")) return dict();
    return unexpected("an expression");
}

Result<ExpressionPtr> ExpressionParser::number() {
    const Token token = take();
    auto node = make(Kind::Constant, token.line);
    const char* const end = token.text.data() + token.text.size();
    std::int64_t integer = 0;
    double real = 0;
    const bool whole = token.kind == Token::Kind::Integer;
    const auto result = whole ? std::from_chars(token.text.data(), end, integer)
                              : std::from_chars(token.text.data(), end, real);
    if (result.ec != std::errc() || result.ptr != end) {
        return template_error(Errc::Unsupported, token.line,
                              "the number " + token.text + " is beyond 64 bits");
    }
    node->value = whole ? Value(integer) : Value(real);
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::parenthesis() {
    const int line = take().line;
    if (skip(")")) return finish(make(Kind::Tuple, line));
    FEDLLM_TRY(auto inside, tuple());
    FEDLLM_TRY_VOID(expect(")"));
    return inside;
}

Result<ExpressionPtr> ExpressionParser::list() {
    auto node = make(Kind::List, take().line);
    while (!skip("]")) {
        if (!node->children.empty()) FEDLLM_TRY_VOID(expect(","));
        if (skip("]")) break;
        FEDLLM_TRY(auto item, expression());
        node->children.push_back(std::move(item));
    }
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::dict() {
    auto node = make(Kind::Dict, take().line);
    while (!skip("}")) {
        if (!node->children.empty()) FEDLLM_TRY_VOID(expect(","));
        if (skip("}")) break;
        FEDLLM_TRY(auto key, expression());
        FEDLLM_TRY_VOID(expect(":"));
        FEDLLM_TRY(auto value, expression());
        node->children.push_back(std::move(key));
        node->children.push_back(std::move(value));
    }
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::postfix(ExpressionPtr operand) {
    while (true) {
        if (sees(".")) {
            FEDLLM_TRY(operand, attribute(std::move(operand)));
        } else if (sees("[")) {
            FEDLLM_TRY(operand, subscript(std::move(operand)));
        } else if (sees("(")) {
            FEDLLM_TRY(operand, call(std::move(operand)));
        } else {
            return operand;
        }
    }
}

Result<ExpressionPtr> ExpressionParser::attribute(ExpressionPtr operand) {
    const int line = take().line;
    if (token().kind == Token::Kind::Integer) {
        FEDLLM_TRY(auto index, number());
        auto node = make(Kind::Item, line);
        node->children.push_back(std::move(operand));
        node->children.push_back(std::move(index));
        return finish(std::move(node));
    }
    FEDLLM_TRY(auto name, expect_name("an attribute's name"));
    auto node = make(Kind::Attribute, line, std::move(name));
    node->children.push_back(std::move(operand));
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::subscript(ExpressionPtr operand) {
    auto node = make(Kind::Item, take().line);
    node->children.push_back(std::move(operand));
    ExpressionPtr bound;
    if (!sees(":")) {
        FEDLLM_TRY(bound, expression());
    }
    node->children.push_back(std::move(bound));
    while (skip(":")) {
        node->kind = Kind::Slice;
        ExpressionPtr next;
        if (!sees(":") && !sees("]")) {
            FEDLLM_TRY(next, expression());
        }
        node->children.push_back(std::move(next));
    }
    if (node->children.size() > 4) return error("a slice has at most three parts");
    if (node->kind == Kind::Slice) node->children.resize(4);
    FEDLLM_TRY_VOID(expect("]"));
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::filters(ExpressionPtr operand) {
    while (true) {
        if (sees("|")) {
            FEDLLM_TRY(operand, filter(std::move(operand)));
        } else if (sees_name("is")) {
            FEDLLM_TRY(operand, test(std::move(operand)));
        } else if (sees("(")) {  // calls are valid after filters too
            FEDLLM_TRY(operand, call(std::move(operand)));
        } else {
            return operand;
        }
    }
}

Result<ExpressionPtr> ExpressionParser::filter(ExpressionPtr operand) {
    const int line = take().line;
    FEDLLM_TRY(auto name, expect_name("a filter's name"));
    auto node = make(Kind::Filter, line, std::move(name));
    node->children.push_back(std::move(operand));
    if (sees("(")) FEDLLM_TRY_VOID(arguments(*node));
    return finish(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::test(ExpressionPtr operand) {
    const int line = take().line;
    const bool negated = skip_name("not");
    FEDLLM_TRY(auto name, expect_name("a test's name"));
    auto node = make(Kind::Test, line, std::move(name));
    node->children.push_back(std::move(operand));
    using enum Token::Kind;
    const bool value_follows = token().kind == Name || token().kind == String || token().kind == Integer ||
                               token().kind == Real || sees("[") || sees("{");
    if (sees("(")) {
        FEDLLM_TRY_VOID(arguments(*node));
    } else if (value_follows && !sees_name("else") && !sees_name("or") && !sees_name("and")) {
        if (sees_name("is")) return error("tests cannot be chained with 'is'");
        FEDLLM_TRY(auto argument, primary());
        FEDLLM_TRY(argument, postfix(std::move(argument)));
        node->children.push_back(std::move(argument));
    }
    if (!negated) return finish(std::move(node));
    auto outer = make(Kind::Not, line);
    FEDLLM_TRY(auto inner, finish(std::move(node)));
    outer->children.push_back(std::move(inner));
    return finish(std::move(outer));
}

Result<ExpressionPtr> ExpressionParser::call(ExpressionPtr operand) {
    auto node = make(Kind::Call, token().line);
    node->children.push_back(std::move(operand));
    FEDLLM_TRY_VOID(arguments(*node));
    return finish(std::move(node));
}

Result<void> ExpressionParser::arguments(Expression& node) {
    take();
    for (bool first = true; !skip(")"); first = false) {
        if (!first) FEDLLM_TRY_VOID(expect(","));
        if (skip(")")) break;
        if (sees("*") || sees("**")) {
            return template_error(Errc::Unsupported, token().line,
                                  "arguments with * or ** are not supported");
        }
        if (token().kind == Token::Kind::Name && following().is(Token::Kind::Operator, "=")) {
            node.names.push_back(take().text);
            take();
        } else if (!node.names.empty()) {
            return error("an argument without a name follows one with a name");
        }
        FEDLLM_TRY(auto value, expression());
        node.children.push_back(std::move(value));
    }
    return {};
}

}  // namespace fedllm::jinja
