// What template expressions compute with: Python's values, as far as templates need them. Nothing changes
// once made, except namespaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/result.hpp"

namespace fedllm::jinja {

class Value;
struct Statement;

struct Text {
    std::string text;   // UTF-8; lengths and positions are in code points, as in Python
    bool safe = false;  // by the filter `safe`: `+` then escapes the other side for HTML
};

// View: what dict.items() and the like give. Generator: what map, select and the like give: it can be read
// once.
enum class SequenceKind { List, Tuple, Range, View, Generator };

struct Sequence {
    std::vector<Value> items;
    SequenceKind kind = SequenceKind::List;
    std::size_t depth = 1;
    std::size_t weight = 0;
    mutable bool read = false;  // of a generator
};

struct Mapping {
    std::vector<std::pair<Value, Value>> entries;           // in the order they were written
    std::map<std::string, std::size_t, std::less<>> index;  // of the entries whose keys are text
    std::size_t depth = 1;
    std::size_t weight = 0;

    const Value* find(std::string_view key) const;
    const Value* find(const Value& key) const;
};

struct Namespace {
    std::map<std::string, Value, std::less<>> values;
};

struct Loop {
    std::shared_ptr<const Sequence> items;
    std::size_t index0 = 0;
};

struct Undefined {
    std::string name;  // for the message of whoever needs a value
};
struct None {};

// Something that can be called: a macro, a global function, or a method of a value.
struct Callable {
    std::string name;
    const Statement* macro = nullptr;       // null: a function, or a method where `receiver` is set
    std::shared_ptr<const Value> receiver;  // copies of a callable share it
};

// Values are copied freely by the evaluator, as Python shares references; what is large is shared, and
// immutable.
class Value {
public:
    Value() : state_(None{}) {}
    Value(None) : Value() {}
    Value(Undefined undefined) : state_(std::move(undefined)) {}
    explicit Value(bool value) : state_(value) {}
    explicit Value(std::int64_t value) : state_(value) {}
    explicit Value(double value) : state_(value) {}
    explicit Value(Text text) : state_(std::make_shared<const Text>(std::move(text))) {}
    explicit Value(std::string text) : Value(Text{std::move(text)}) {}
    explicit Value(std::shared_ptr<const Sequence> items) : state_(std::move(items)) {}
    explicit Value(std::shared_ptr<const Mapping> entries) : state_(std::move(entries)) {}
    explicit Value(std::shared_ptr<Namespace> values) : state_(std::move(values)) {}
    explicit Value(std::shared_ptr<const Loop> loop) : state_(std::move(loop)) {}
    explicit Value(Callable callable) : state_(std::make_shared<const Callable>(std::move(callable))) {}
    static Value count(std::size_t number) { return Value(static_cast<std::int64_t>(number)); }

    bool is_undefined() const { return std::holds_alternative<Undefined>(state_); }
    bool is_none() const { return std::holds_alternative<None>(state_); }
    const Undefined* undefined() const { return std::get_if<Undefined>(&state_); }
    const bool* boolean() const { return std::get_if<bool>(&state_); }
    const double* real() const { return std::get_if<double>(&state_); }
    const std::string* text() const;
    bool is_safe() const;
    const Sequence* sequence() const { return pointed<Sequence>(); }
    std::shared_ptr<const Sequence> shared_sequence() const;
    const Mapping* mapping() const { return pointed<Mapping>(); }
    const Loop* loop() const { return pointed<Loop>(); }
    const Callable* callable() const { return pointed<Callable>(); }
    Namespace* names() const;

    std::optional<std::int64_t> integer() const;  // booleans are integers, as in Python
    bool is_number() const { return real() || integer(); }
    std::size_t depth() const;      // of nesting: 0 for what contains nothing
    std::size_t weight() const;     // about the bytes that it prints, shared parts counted each time
    const char* type_name() const;  // for error messages

private:
    template <class T>
    const T* pointed() const {
        const auto* held = std::get_if<std::shared_ptr<const T>>(&state_);
        return held ? held->get() : nullptr;
    }

    std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>,
                 std::shared_ptr<const Sequence>, std::shared_ptr<const Mapping>, std::shared_ptr<Namespace>,
                 std::shared_ptr<const Loop>, std::shared_ptr<const Callable>>
        state_;
};

// Containers nest to this depth and weigh this much, so that walking through a value is safe: parts may be
// shared, and a list that holds a list twice, that holds a list twice, ... is small until it is printed.
inline constexpr std::size_t kValueDepthMax = 100;
inline constexpr std::size_t kValueWeightMax = std::size_t{64} << 20;

Result<Value> make_sequence(std::vector<Value> items, SequenceKind kind = SequenceKind::List);
// Later entries replace earlier ones of the same key, in the earlier one's place. Keys: text, numbers or
// none.
Result<Value> make_mapping(std::vector<std::pair<Value, Value>> entries);

bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
Result<bool> less(const Value& a, const Value& b);  // Unsupported where Python has no order

// str(): what is printed. Numbers, lists and dicts as Python writes them.
Result<std::string> to_text(const Value& value);
std::string real_text(double value);  // repr(float)

// UTF-8 in code points.
std::size_t text_length(std::string_view text);
std::vector<std::string_view> text_characters(std::string_view text);
bool is_python_space(char32_t c);  // str.isspace, and \s in regular expressions
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);

}  // namespace fedllm::jinja
