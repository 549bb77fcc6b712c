#include "common/jinja/parser.hpp"

#include <array>
#include <span>
#include <utility>

#include "common/base/text.hpp"
#include "common/jinja/expression_parser.hpp"
#include "common/jinja/lexer.hpp"

namespace fedllm::jinja {
namespace {

constexpr std::string_view kSupported = "for, if, set, macro, generation, break, continue and raw";

class Parser {
public:
    explicit Parser(std::vector<Token> tokens) : in_(std::move(tokens)) {}

    Result<Block> run() {
        FEDLLM_TRY(auto block, body({}));
        if (in_.token().kind != Token::Kind::End) return in_.unexpected("text or a tag");
        return block;
    }

private:
    using Kind = Statement::Kind;
    using Node = std::unique_ptr<Statement>;
    using StatementPtr = std::unique_ptr<const Statement>;

    static Node make(Kind kind, int line) {
        auto node = std::make_unique<Statement>();
        node->kind = kind;
        node->line = line;
        return node;
    }

    // Statements up to a block that begins with one of `ends`, which stays the next token; or to the end.
    Result<Block> body(std::initializer_list<std::string_view> ends) {
        const ExpressionParser::Nested nested(in_.depth_);
        FEDLLM_TRY_VOID(in_.check_depth());
        Block block;
        while (in_.token().kind != Token::Kind::End) {
            const Token begin = in_.take();
            if (begin.kind == Token::Kind::Data) {
                auto node = make(Kind::Data, begin.line);
                node->text = begin.text;
                block.push_back(std::move(node));
            } else if (begin.kind == Token::Kind::OutputBegin) {
                auto node = make(Kind::Output, begin.line);
                FEDLLM_TRY(auto value, in_.tuple());
                node->expressions.push_back(std::move(value));
                if (in_.token().kind != Token::Kind::OutputEnd) return in_.unexpected("'}}'");
                in_.take();
                block.push_back(std::move(node));
            } else {
                for (const auto end : ends) {
                    if (in_.sees_name(end)) return block;
                }
                FEDLLM_TRY(auto node, statement());
                block.push_back(std::move(node));
            }
        }
        if (ends.size() > 0) return in_.unexpected("'{% " + std::string(*(ends.end() - 1)) + " %}'");
        return block;
    }

    Result<void> block_end() {
        if (in_.token().kind != Token::Kind::BlockEnd) return in_.unexpected("'%}'");
        in_.take();
        return {};
    }

    Result<Block> body_until(std::string_view end) {
        FEDLLM_TRY_VOID(block_end());
        FEDLLM_TRY(auto block, body({end}));
        in_.take();
        FEDLLM_TRY_VOID(block_end());
        return block;
    }

    Result<StatementPtr> statement() {
        const int line = in_.token().line;
        FEDLLM_TRY(const auto name, in_.expect_name("a statement"));
        if (name == "for") return for_loop(line);
        if (name == "if") return if_chain(line);
        if (name == "set") return set(line);
        if (name == "macro") return macro(line);
        if (name == "generation") return generation(line);
        if (name == "break") return jump(Kind::Break, name, line);
        if (name == "continue") return jump(Kind::Continue, name, line);
        if (name.starts_with("end") || name == "else" || name == "elif") {
            return template_error(Errc::InvalidFile, line, "'" + name + "' ends nothing");
        }
        return template_error(
            Errc::Unsupported, line,
            "the statement '" + name + "' is not supported; supported are " + std::string(kSupported));
    }

    // A name, or names with commas between them, perhaps in parentheses.
    Result<std::vector<std::string>> targets() {
        const bool open = in_.skip("(");
        std::vector<std::string> names;
        do {
            if (!names.empty() && in_.token().kind != Token::Kind::Name) break;
            FEDLLM_TRY(auto name, in_.expect_name("a variable's name"));
            names.push_back(std::move(name));
        } while (!in_.sees_name("in") && in_.skip(","));
        if (open) FEDLLM_TRY_VOID(in_.expect(")"));
        return names;
    }

    Result<StatementPtr> for_loop(int line) {
        auto node = make(Kind::For, line);
        FEDLLM_TRY(node->names, targets());
        if (!in_.skip_name("in")) return in_.unexpected("'in'");
        FEDLLM_TRY(auto items, in_.without_conditional());
        ExpressionPtr condition;
        if (in_.skip_name("if")) {
            FEDLLM_TRY(condition, in_.expression());
        }
        if (in_.sees_name("recursive")) {
            return template_error(Errc::Unsupported, line, "a recursive loop is not supported");
        }
        node->expressions.push_back(std::move(items));
        node->expressions.push_back(std::move(condition));
        FEDLLM_TRY_VOID(block_end());
        ++loops_;
        FEDLLM_TRY(auto repeated, body({"else", "endfor"}));
        --loops_;
        node->bodies.push_back(std::move(repeated));
        Block otherwise;
        if (in_.skip_name("else")) {
            FEDLLM_TRY_VOID(block_end());
            FEDLLM_TRY(otherwise, body({"endfor"}));
        }
        node->bodies.push_back(std::move(otherwise));
        in_.take();
        FEDLLM_TRY_VOID(block_end());
        return StatementPtr(std::move(node));
    }

    Result<StatementPtr> if_chain(int line) {
        auto node = make(Kind::If, line);
        while (true) {
            FEDLLM_TRY(auto condition, in_.tuple());
            node->expressions.push_back(std::move(condition));
            FEDLLM_TRY_VOID(block_end());
            FEDLLM_TRY(auto block, body({"elif", "else", "endif"}));
            node->bodies.push_back(std::move(block));
            if (!in_.skip_name("elif")) break;
        }
        if (in_.skip_name("else")) {
            FEDLLM_TRY_VOID(block_end());
            FEDLLM_TRY(auto block, body({"endif"}));
            node->bodies.push_back(std::move(block));
        }
        in_.take();
        FEDLLM_TRY_VOID(block_end());
        return StatementPtr(std::move(node));
    }

    Result<StatementPtr> set(int line) {
        auto node = make(Kind::Set, line);
        FEDLLM_TRY(node->names, targets());
        if (in_.skip(".")) {
            node->text = node->names[0];
            FEDLLM_TRY(node->names[0], in_.expect_name("an attribute's name"));
        }
        if (in_.skip("=")) {
            FEDLLM_TRY(auto value, in_.tuple());
            node->expressions.push_back(std::move(value));
            FEDLLM_TRY_VOID(block_end());
            return StatementPtr(std::move(node));
        }
        node->kind = Kind::SetBlock;
        if (node->names.size() != 1 || !node->text.empty()) return in_.unexpected("'='");
        auto captured = std::make_unique<Expression>();
        captured->kind = Expression::Kind::Variable;
        captured->line = line;
        FEDLLM_TRY(auto filtered, in_.filters(std::move(captured)));
        node->expressions.push_back(std::move(filtered));
        FEDLLM_TRY(auto block, inner_body("endset"));
        node->bodies.push_back(std::move(block));
        return StatementPtr(std::move(node));
    }

    Result<StatementPtr> macro(int line) {
        if (depth() > 0) {
            return template_error(Errc::Unsupported, line,
                                  "a macro inside a loop, block set or macro is not supported; "
                                  "supported are macros of the whole template");
        }
        auto node = make(Kind::Macro, line);
        FEDLLM_TRY(node->text, in_.expect_name("the macro's name"));
        FEDLLM_TRY_VOID(in_.expect("("));
        while (!in_.skip(")")) {
            if (!node->names.empty()) FEDLLM_TRY_VOID(in_.expect(","));
            FEDLLM_TRY(auto name, in_.expect_name("a parameter's name"));
            ExpressionPtr fallback;
            if (in_.skip("=")) {
                FEDLLM_TRY(fallback, in_.expression());
            }
            node->names.push_back(std::move(name));
            node->expressions.push_back(std::move(fallback));
        }
        FEDLLM_TRY(auto block, inner_body("endmacro"));
        node->bodies.push_back(std::move(block));
        return StatementPtr(std::move(node));
    }

    Result<StatementPtr> generation(int line) {
        if (captures_ > 0) {
            return template_error(Errc::Unsupported, line,
                                  "generation inside a macro or block set is not supported");
        }
        auto node = make(Kind::Generation, line);
        const int loops = std::exchange(loops_, 0);
        FEDLLM_TRY(auto block, body_until("endgeneration"));
        loops_ = loops;
        node->bodies.push_back(std::move(block));
        return StatementPtr(std::move(node));
    }

    Result<StatementPtr> jump(Kind kind, const std::string& name, int line) {
        if (loops_ == 0) return template_error(Errc::InvalidFile, line, "'" + name + "' outside a loop");
        FEDLLM_TRY_VOID(block_end());
        return StatementPtr(make(kind, line));
    }

    // A body whose output is kept, not printed.
    Result<Block> inner_body(std::string_view end) {
        ++captures_;
        const int loops = std::exchange(loops_, 0);
        auto block = body_until(end);
        loops_ = loops;
        --captures_;
        return block;
    }

    int depth() const { return loops_ + captures_; }

    ExpressionParser in_;
    int loops_ = 0;
    int captures_ = 0;
};

}  // namespace

Result<Block> parse(std::string_view source) {
    if (source.size() > kSourceBytesMax) {
        return make_error(Errc::TooLarge, "the template has " + format_bytes(source.size()) + ", at most " +
                                              format_bytes(kSourceBytesMax) + " are read");
    }
    if (!is_utf8(source)) return make_error(Errc::InvalidFile, "the template is not UTF-8");
    FEDLLM_TRY(auto tokens, tokenize(source));
    return Parser(std::move(tokens)).run();
}

}  // namespace fedllm::jinja
