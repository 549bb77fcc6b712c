// Walks a syntax tree. One object renders once.
#pragma once

#include <ctime>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/jinja/builtins.hpp"
#include "common/jinja/syntax.hpp"
#include "common/jinja/template.hpp"

namespace fedllm::jinja {

class Renderer {
public:
    Renderer(const Variables& variables, const std::tm& now);
    Renderer(const Renderer&) = delete;
    Renderer& operator=(const Renderer&) = delete;
    ~Renderer();

    Result<Rendered> run(const Block& body);

private:
    enum class Flow { Next, Break, Continue };
    using Scope = std::map<std::string, Value, std::less<>>;

    Result<Flow> execute(const Block& block);
    Result<Flow> execute(const Statement& statement);
    Result<Flow> execute_kind(const Statement& statement);
    Result<Flow> if_chain(const Statement& statement);
    Result<Flow> for_loop(const Statement& statement);
    Result<std::shared_ptr<const Sequence>> loop_items(const Statement& statement);
    Result<void> bind(const std::vector<std::string>& names, const Value& value, int line);
    Result<void> set(const Statement& statement);
    Result<void> set_block(const Statement& statement);
    Result<void> generation(const Statement& statement);
    Result<std::string> capture(const Block& block);
    Result<void> print(std::string_view text, int line);

    Result<void> descend(int line);
    Result<Value> evaluate(const Expression& node);
    Result<Value> evaluate_kind(const Expression& node);
    Result<Value> variable(const Expression& node) const;
    Result<Value> container(const Expression& node);
    Result<Value> slice(const Expression& node);
    Result<Value> arithmetic(const Expression& node);
    Result<Value> concatenate(const Expression& node);
    Result<Value> compare(const Expression& node);
    Result<Value> filter(const Expression& node);
    Result<Value> test(const Expression& node);
    Result<Value> call(const Expression& node);
    Result<Value> call_macro(const Statement& macro, const Arguments& arguments, int line);
    Result<Value> make_namespace(const Arguments& arguments);
    Result<Arguments> arguments_of(const Expression& node);
    Result<void> spend(const Value& value, int line);

    Context context() { return {budget_, now_}; }

    const std::tm& now_;
    Budget budget_;
    std::vector<Scope> scopes_;
    std::string* out_;
    Rendered rendered_;
    int macro_depth_ = 0;
    int depth_ = 0;  // of recursion
    // Namespaces may hold each other; they are emptied at the end, so that none keeps another alive.
    std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace fedllm::jinja
