#include "common/jinja/renderer.hpp"

#include <algorithm>
#include <utility>

#include "common/jinja/arithmetic.hpp"
#include "common/jinja/lexer.hpp"

namespace fedllm::jinja {
namespace {

constexpr int kMacroDepthMax = 40;
constexpr int kDepthMax =
    600;  // statements and expressions inside each other, through macros too: a stack of 2 MiB

// The error of a builtin, with the line it was called from.
Error at_line(int line, const Error& error) { return template_error(error.code, line, error.message); }

template <class T>
Result<T> at_line(int line, Result<T> result) {
    if (!result) return at_line(line, result.error());
    return result;
}

}  // namespace

Renderer::Renderer(const Variables& variables, const std::tm& now)
    : now_(now), scopes_(1), out_(&rendered_.text) {
    for (const auto& [name, value] : variables) scopes_.front().insert_or_assign(name, value);
}

Renderer::~Renderer() {
    for (const auto& names : namespaces_) names->values.clear();
}

Result<Rendered> Renderer::run(const Block& body) {
    FEDLLM_TRY([[maybe_unused]] const Flow flow, execute(body));
    return std::move(rendered_);
}

// ------------------------------------------------------------------------------------------------------------------
// Statements

Result<Renderer::Flow> Renderer::execute(const Block& block) {
    for (const auto& statement : block) {
        FEDLLM_TRY(const Flow flow, execute(*statement));
        if (flow != Flow::Next) return flow;
    }
    return Flow::Next;
}

Result<Renderer::Flow> Renderer::execute(const Statement& statement) {
    FEDLLM_TRY_VOID(descend(statement.line));
    auto flow = execute_kind(statement);
    --depth_;
    return flow;
}

Result<Renderer::Flow> Renderer::execute_kind(const Statement& statement) {
    using Kind = Statement::Kind;
    switch (statement.kind) {
        case Kind::Data: FEDLLM_TRY_VOID(print(statement.text, statement.line)); break;
        case Kind::Output: {
            FEDLLM_TRY(const Value value, evaluate(*statement.expressions[0]));
            FEDLLM_TRY(const auto text, at_line(statement.line, to_text(value)));
            FEDLLM_TRY_VOID(print(text, statement.line));
            break;
        }
        case Kind::If: return if_chain(statement);
        case Kind::For: return for_loop(statement);
        case Kind::Set: FEDLLM_TRY_VOID(set(statement)); break;
        case Kind::SetBlock: FEDLLM_TRY_VOID(set_block(statement)); break;
        case Kind::Macro:
            scopes_.back().insert_or_assign(statement.text,
                                            Value(Callable{statement.text, &statement, nullptr}));
            break;
        case Kind::Generation: FEDLLM_TRY_VOID(generation(statement)); break;
        case Kind::Break: return Flow::Break;
        case Kind::Continue: return Flow::Continue;
    }
    return Flow::Next;
}

Result<Renderer::Flow> Renderer::if_chain(const Statement& statement) {
    for (std::size_t i = 0; i < statement.expressions.size(); ++i) {
        FEDLLM_TRY(const Value condition, evaluate(*statement.expressions[i]));
        if (truth(condition)) return execute(statement.bodies[i]);
    }
    if (statement.bodies.size() > statement.expressions.size()) return execute(statement.bodies.back());
    return Flow::Next;
}

Result<std::shared_ptr<const Sequence>> Renderer::loop_items(const Statement& statement) {
    FEDLLM_TRY(const Value source, evaluate(*statement.expressions[0]));
    FEDLLM_TRY(auto items, at_line(statement.line, items_of(context(), source)));
    if (!statement.expressions[1]) return std::make_shared<const Sequence>(Sequence{std::move(items)});
    auto kept = std::make_shared<Sequence>();
    for (auto& item : items) {
        scopes_.emplace_back();
        FEDLLM_TRY_VOID(bind(statement.names, item, statement.line));
        FEDLLM_TRY(const Value wanted, evaluate(*statement.expressions[1]));
        scopes_.pop_back();
        if (truth(wanted)) kept->items.push_back(std::move(item));
    }
    return std::shared_ptr<const Sequence>(std::move(kept));
}

Result<Renderer::Flow> Renderer::for_loop(const Statement& statement) {
    FEDLLM_TRY(const auto items, loop_items(statement));
    if (items->items.empty()) {
        scopes_.emplace_back();
        FEDLLM_TRY(const Flow flow, execute(statement.bodies[1]));
        scopes_.pop_back();
        return flow;
    }
    for (std::size_t i = 0; i < items->items.size(); ++i) {
        FEDLLM_TRY_VOID(at_line(statement.line, budget_.step(1)));
        scopes_.emplace_back();
        scopes_.back().emplace("loop", Value(std::make_shared<const Loop>(Loop{items, i})));
        FEDLLM_TRY_VOID(bind(statement.names, items->items[i], statement.line));
        FEDLLM_TRY(const Flow flow, execute(statement.bodies[0]));
        scopes_.pop_back();
        if (flow == Flow::Break) break;
    }
    return Flow::Next;
}

Result<void> Renderer::bind(const std::vector<std::string>& names, const Value& value, int line) {
    if (names.size() == 1) {
        scopes_.back().insert_or_assign(names[0], value);
        return {};
    }
    FEDLLM_TRY(const auto items, at_line(line, items_of(context(), value)));
    if (items.size() != names.size()) {
        return template_error(Errc::InvalidData, line,
                              "expected " + std::to_string(names.size()) + " values for " +
                                  std::to_string(names.size()) + " names, found " +
                                  std::to_string(items.size()));
    }
    for (std::size_t i = 0; i < names.size(); ++i) scopes_.back().insert_or_assign(names[i], items[i]);
    return {};
}

Result<void> Renderer::set(const Statement& statement) {
    FEDLLM_TRY(const Value value, evaluate(*statement.expressions[0]));
    if (statement.text.empty()) return bind(statement.names, value, statement.line);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        const auto found = scope->find(statement.text);
        if (found == scope->end()) continue;
        Namespace* const names = found->second.names();
        if (!names) break;
        names->values.insert_or_assign(statement.names[0], value);
        return {};
    }
    return template_error(Errc::InvalidData, statement.line,
                          "'" + statement.text + "' is no namespace, so no attribute can be set");
}

Result<std::string> Renderer::capture(const Block& block) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    scopes_.emplace_back();
    const auto done = execute(block);
    out_ = outer;
    if (!done) return done.error();  // which ends the rendering: scopes stay as they are
    scopes_.pop_back();
    return text;
}

Result<void> Renderer::set_block(const Statement& statement) {
    FEDLLM_TRY(auto text, capture(statement.bodies[0]));
    scopes_.emplace_back();
    scopes_.back().emplace("", Value(std::move(text)));
    FEDLLM_TRY(const Value value, evaluate(*statement.expressions[0]));
    scopes_.pop_back();
    return bind(statement.names, value, statement.line);
}

Result<void> Renderer::generation(const Statement& statement) {
    const std::size_t begin = out_->size();
    FEDLLM_TRY(const auto text, capture(statement.bodies[0]));
    FEDLLM_TRY_VOID(print(text, statement.line));
    rendered_.generated.push_back({begin, out_->size()});
    return {};
}

Result<void> Renderer::print(std::string_view text, int line) {
    if (out_->size() + text.size() > kOutputBytesMax) {
        return template_error(Errc::TooLarge, line, "the output exceeds its limit");
    }
    FEDLLM_TRY_VOID(at_line(line, budget_.charge(text.size())));
    *out_ += text;
    return {};
}

// ---------------------------------------------------------------------------------------------------------------
// Expressions

// Work in proportion to what an operation reads.
Result<void> Renderer::spend(const Value& value, int line) {
    return at_line(line, budget_.step(value.weight() / 256));
}

Result<void> Renderer::descend(int line) {
    if (++depth_ > kDepthMax) {
        return template_error(Errc::TooLarge, line, "statements and macros are nested too deeply");
    }
    return at_line(line, budget_.step(1));
}

Result<Value> Renderer::evaluate(const Expression& node) {
    FEDLLM_TRY_VOID(descend(node.line));
    FEDLLM_TRY(Value value, evaluate_kind(node));
    --depth_;
    if (node.kind >= Expression::Kind::Slice || node.kind == Expression::Kind::List) {
        if (value.text()) FEDLLM_TRY_VOID(at_line(node.line, budget_.charge(value.text()->size())));
        if (value.sequence()) {
            FEDLLM_TRY_VOID(
                at_line(node.line, budget_.charge(value.sequence()->items.size() * sizeof(Value))));
        }
    }
    return value;
}

Result<Value> Renderer::evaluate_kind(const Expression& node) {
    using Kind = Expression::Kind;
    const auto child = [&](std::size_t i) { return evaluate(*node.children[i]); };
    switch (node.kind) {
        case Kind::Constant: return node.value;
        case Kind::Variable: return variable(node);
        case Kind::List:
        case Kind::Tuple:
        case Kind::Dict: return container(node);
        case Kind::Attribute: {
            FEDLLM_TRY(const Value owner, child(0));
            return at_line(node.line, attribute_of(owner, node.name));
        }
        case Kind::Item: {
            FEDLLM_TRY(const Value owner, child(0));
            FEDLLM_TRY(const Value key, child(1));
            if (owner.text()) FEDLLM_TRY_VOID(spend(owner, node.line));
            return at_line(node.line, item_of(owner, key));
        }
        case Kind::Slice: return slice(node);
        case Kind::Call: return call(node);
        case Kind::Filter: return filter(node);
        case Kind::Test: return test(node);
        case Kind::Not: {
            FEDLLM_TRY(const Value value, child(0));
            return Value(!truth(value));
        }
        case Kind::Negate: {
            FEDLLM_TRY(const Value value, child(0));
            return at_line(node.line, negate(value));
        }
        case Kind::And:
        case Kind::Or: {
            FEDLLM_TRY(Value left, child(0));
            if (truth(left) == (node.kind == Kind::Or)) return left;
            return child(1);
        }
        case Kind::Arithmetic: return arithmetic(node);
        case Kind::Concatenate: return concatenate(node);
        case Kind::Compare: return compare(node);
        case Kind::Conditional: {
            FEDLLM_TRY(const Value condition, child(1));
            if (truth(condition)) return child(0);
            return node.children[2] ? child(2)
                                    : Result<Value>(Value(Undefined{"the other side of the 'if'"}));
        }
    }
    return Value();
}

Result<Value> Renderer::variable(const Expression& node) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        if (const auto found = scope->find(node.name); found != scope->end()) return found->second;
    }
    if (is_function(node.name)) return Value(Callable{node.name, nullptr, nullptr});
    if (macro_depth_ > 0 && (node.name == "varargs" || node.name == "kwargs" || node.name == "caller")) {
        return template_error(Errc::Unsupported, node.line,
                              "'" + node.name + "' of a macro is not supported");
    }
    return Value(Undefined{node.name});
}

Result<Value> Renderer::container(const Expression& node) {
    std::vector<Value> items;
    for (const auto& child : node.children) {
        FEDLLM_TRY(auto item, evaluate(*child));
        items.push_back(std::move(item));
    }
    using Kind = Expression::Kind;
    if (node.kind != Kind::Dict) {
        const auto kind = node.kind == Kind::List ? SequenceKind::List : SequenceKind::Tuple;
        return at_line(node.line, make_sequence(std::move(items), kind));
    }
    std::vector<std::pair<Value, Value>> entries;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
        entries.emplace_back(std::move(items[i]), std::move(items[i + 1]));
    }
    return at_line(node.line, make_mapping(std::move(entries)));
}

Result<Value> Renderer::slice(const Expression& node) {
    Value bounds[3];
    FEDLLM_TRY(const Value owner, evaluate(*node.children[0]));
    for (std::size_t i = 0; i < 3; ++i) {
        if (!node.children[i + 1]) continue;
        FEDLLM_TRY(bounds[i], evaluate(*node.children[i + 1]));
    }
    FEDLLM_TRY_VOID(spend(owner, node.line));
    return at_line(node.line, slice_of(owner, bounds[0], bounds[1], bounds[2]));
}

Result<Value> Renderer::arithmetic(const Expression& node) {
    FEDLLM_TRY(const Value left, evaluate(*node.children[0]));
    FEDLLM_TRY(const Value right, evaluate(*node.children[1]));
    return at_line(node.line, calculate(context(), node.name, left, right));
}

Result<Value> Renderer::concatenate(const Expression& node) {
    std::string text;
    for (const auto& child : node.children) {
        FEDLLM_TRY(const Value value, evaluate(*child));
        FEDLLM_TRY(const auto part, at_line(node.line, to_text(value)));
        FEDLLM_TRY_VOID(at_line(node.line, budget_.charge(part.size())));
        text += part;
    }
    return Value(std::move(text));
}

Result<Value> Renderer::compare(const Expression& node) {
    FEDLLM_TRY(Value left, evaluate(*node.children[0]));
    for (std::size_t i = 0; i < node.names.size(); ++i) {
        FEDLLM_TRY(Value right, evaluate(*node.children[i + 1]));
        const std::string& op = node.names[i];
        FEDLLM_TRY_VOID(
            spend(op.ends_with("in") || right.weight() < left.weight() ? right : left, node.line));
        FEDLLM_TRY(const bool holds, at_line(node.line, relation(context(), op, left, right)));
        if (!holds) return Value(false);
        left = std::move(right);
    }
    return Value(true);
}

Result<Arguments> Renderer::arguments_of(const Expression& node) {
    Arguments arguments;
    const std::size_t first_named = node.children.size() - node.names.size();
    for (std::size_t i = 1; i < node.children.size(); ++i) {
        FEDLLM_TRY(auto value, evaluate(*node.children[i]));
        FEDLLM_TRY_VOID(spend(value, node.line));
        if (i < first_named)
            arguments.positional.push_back(std::move(value));
        else
            arguments.named.emplace_back(node.names[i - first_named], std::move(value));
    }
    return arguments;
}

Result<Value> Renderer::filter(const Expression& node) {
    FEDLLM_TRY(const Value value, evaluate(*node.children[0]));
    FEDLLM_TRY_VOID(spend(value, node.line));
    FEDLLM_TRY(const auto arguments, arguments_of(node));
    return at_line(node.line, apply_filter(context(), node.name, value, arguments));
}

Result<Value> Renderer::test(const Expression& node) {
    FEDLLM_TRY(const Value value, evaluate(*node.children[0]));
    FEDLLM_TRY(const auto arguments, arguments_of(node));
    FEDLLM_TRY(const bool holds, at_line(node.line, apply_test(context(), node.name, value, arguments)));
    return Value(holds);
}

Result<Value> Renderer::call(const Expression& node) {
    FEDLLM_TRY(const Value callee, evaluate(*node.children[0]));
    FEDLLM_TRY(const auto arguments, arguments_of(node));
    if (const auto* undefined = callee.undefined()) {
        return template_error(
            Errc::InvalidData, node.line,
            "'" + undefined->name + "' is called and is undefined; the functions are " + list_functions());
    }
    const auto* callable = callee.callable();
    if (!callable) {
        return template_error(Errc::InvalidData, node.line,
                              std::string(callee.type_name()) + " cannot be called");
    }
    if (callable->macro) return call_macro(*callable->macro, arguments, node.line);
    if (callable->receiver) {
        FEDLLM_TRY_VOID(spend(*callable->receiver, node.line));
        return at_line(node.line, call_method(context(), *callable->receiver, callable->name, arguments));
    }
    if (callable->name == "namespace") return at_line(node.line, make_namespace(arguments));
    return at_line(node.line, call_function(context(), callable->name, arguments));
}

Result<Value> Renderer::make_namespace(const Arguments& arguments) {
    auto names = std::make_shared<Namespace>();
    if (arguments.positional.size() > 1)
        return make_error(Errc::InvalidData, "namespace takes one dict at most");
    if (!arguments.positional.empty()) {
        const Mapping* mapping = arguments.positional[0].mapping();
        if (!mapping || mapping->index.size() != mapping->entries.size()) {
            return make_error(Errc::InvalidData, "namespace takes a dict with names as keys");
        }
        for (const auto& [key, value] : mapping->entries) names->values.insert_or_assign(*key.text(), value);
    }
    for (const auto& [name, value] : arguments.named) names->values.insert_or_assign(name, value);
    FEDLLM_TRY_VOID(budget_.charge(sizeof(Namespace)));
    namespaces_.push_back(names);
    return Value(std::move(names));
}

// A macro sees the template's own variables and its parameters, not those of the place it is called from.
Result<Value> Renderer::call_macro(const Statement& macro, const Arguments& arguments, int line) {
    if (macro_depth_ >= kMacroDepthMax) {
        return template_error(Errc::TooLarge, line,
                              "macros call each other more than " + std::to_string(kMacroDepthMax) + " deep");
    }
    if (arguments.positional.size() > macro.names.size()) {
        return template_error(
            Errc::InvalidData, line,
            "the macro '" + macro.text + "' takes " + std::to_string(macro.names.size()) + " arguments");
    }
    for (const auto& [name, value] : arguments.named) {
        if (std::find(macro.names.begin(), macro.names.end(), name) == macro.names.end()) {
            return template_error(Errc::InvalidData, line,
                                  "the macro '" + macro.text + "' has no parameter '" + name + "'");
        }
    }
    std::vector<Scope> callers(std::make_move_iterator(scopes_.begin() + 1),
                               std::make_move_iterator(scopes_.end()));
    scopes_.resize(1);
    scopes_.emplace_back();
    ++macro_depth_;
    for (std::size_t i = 0; i < macro.names.size(); ++i) {
        Value value(Undefined{macro.names[i]});
        if (const Value* given = arguments.find(i, macro.names[i])) {
            value = *given;
        } else if (macro.expressions[i]) {
            FEDLLM_TRY(value, evaluate(*macro.expressions[i]));
        }
        scopes_.back().insert_or_assign(macro.names[i], std::move(value));
    }
    FEDLLM_TRY(auto text, capture(macro.bodies[0]));
    --macro_depth_;
    scopes_.resize(1);
    std::move(callers.begin(), callers.end(), std::back_inserter(scopes_));
    return Value(std::move(text));
}

}  // namespace fedllm::jinja
