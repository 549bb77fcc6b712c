// The expressions of a template, by precedence climbing as Jinja's grammar has it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/jinja/lexer.hpp"
#include "common/jinja/syntax.hpp"

namespace fedllm::jinja {

class ExpressionParser {
public:
    explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    Result<ExpressionPtr> expression();           // with "a if b else c"
    Result<ExpressionPtr> without_conditional();  // of a for loop, whose `if` is a filter
    Result<ExpressionPtr> tuple();                // expressions with commas between them; one is itself
    // | name(arguments) | ... after `operand`.
    Result<ExpressionPtr> filters(ExpressionPtr operand);

    const Token& token() const { return tokens_[at_]; }
    const Token& following() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
    Token take();
    bool sees_name(std::string_view name) const { return token().is(Token::Kind::Name, name); }
    bool sees(std::string_view op) const { return token().is(Token::Kind::Operator, op); }
    bool skip(std::string_view op);
    bool skip_name(std::string_view name);
    Result<void> expect(std::string_view op);
    Result<std::string> expect_name(const char* what);
    Error error(const std::string& what) const {
        return template_error(Errc::InvalidFile, token().line, what);
    }
    Error unexpected(const std::string& wanted) const;

    // Counts nesting for as long as it lives.
    class Nested {
    public:
        explicit Nested(int& depth) : depth_(depth) { ++depth_; }
        Nested(const Nested&) = delete;
        Nested& operator=(const Nested&) = delete;
        ~Nested() { --depth_; }

    private:
        int& depth_;
    };
    Result<void> check_depth() const;
    int depth_ = 0;

private:
    using Kind = Expression::Kind;
    using Node = std::unique_ptr<Expression>;

    Result<ExpressionPtr> disjunction();
    Result<ExpressionPtr> conjunction();
    Result<ExpressionPtr> negation();
    Result<ExpressionPtr> comparison();
    Result<ExpressionPtr> sum();
    Result<ExpressionPtr> concatenation();
    Result<ExpressionPtr> product();
    Result<ExpressionPtr> power();
    Result<ExpressionPtr> unary(bool with_filters);
    Result<ExpressionPtr> primary();
    Result<ExpressionPtr> number();
    Result<ExpressionPtr> parenthesis();
    Result<ExpressionPtr> list();
    Result<ExpressionPtr> dict();
    Result<ExpressionPtr> postfix(ExpressionPtr operand);
    Result<ExpressionPtr> attribute(ExpressionPtr operand);
    Result<ExpressionPtr> subscript(ExpressionPtr operand);
    Result<ExpressionPtr> filter(ExpressionPtr operand);
    Result<ExpressionPtr> test(ExpressionPtr operand);
    Result<ExpressionPtr> call(ExpressionPtr operand);
    Result<void> arguments(Expression& node);
    using Operand = Result<ExpressionPtr> (ExpressionParser::*)();
    Result<ExpressionPtr> left_to_right(Operand operand, std::initializer_list<std::string_view> operators);

    static Result<ExpressionPtr> finish(Node node);
    static Node make(Kind kind, int line, std::string name = {});

    std::vector<Token> tokens_;
    std::size_t at_ = 0;
};

}  // namespace fedllm::jinja
