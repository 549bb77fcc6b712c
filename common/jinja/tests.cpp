// The tests of templates: value is name(arguments).
#include <algorithm>
#include <array>

#include "common/jinja/arithmetic.hpp"
#include "common/jinja/builtins.hpp"

namespace fedllm::jinja {
namespace {

using Predicate = bool (*)(const Value&);

struct Simple {
    std::string_view name;
    Predicate holds;
};

bool is_iterable(const Value& value) {
    return value.sequence() || value.mapping() || value.text() || value.is_undefined() || value.loop();
}

// Python's "has a length and items".
bool is_sequence(const Value& value) {
    return value.text() || value.mapping() || value.is_undefined() ||
           (value.sequence() && value.sequence()->kind <= SequenceKind::Range);
}

constexpr std::array kSimple{
    Simple{"defined", [](const Value& v) { return !v.is_undefined(); }},
    Simple{"undefined", [](const Value& v) { return v.is_undefined(); }},
    Simple{"none", [](const Value& v) { return v.is_none(); }},
    Simple{"string", [](const Value& v) { return v.text() != nullptr; }},
    Simple{"mapping", [](const Value& v) { return v.mapping() != nullptr; }},
    Simple{"iterable", is_iterable},
    Simple{"sequence", is_sequence},
    Simple{"number", [](const Value& v) { return v.is_number(); }},
    Simple{"integer", [](const Value& v) { return v.integer() && !v.boolean(); }},
    Simple{"float", [](const Value& v) { return v.real() != nullptr; }},
    Simple{"boolean", [](const Value& v) { return v.boolean() != nullptr; }},
    Simple{"true", [](const Value& v) { return v.boolean() && *v.boolean(); }},
    Simple{"false", [](const Value& v) { return v.boolean() && !*v.boolean(); }},
    Simple{"callable", [](const Value& v) { return v.callable() != nullptr; }},
};

struct Operator {
    std::string_view name;
    std::string_view op;
};

constexpr std::array kOperators{
    Operator{"equalto", "=="}, Operator{"eq", "=="}, Operator{"ne", "!="}, Operator{"lessthan", "<"},
    Operator{"lt", "<"},       Operator{"le", "<="}, Operator{"gt", ">"},  Operator{"greaterthan", ">"},
    Operator{"ge", ">="},      Operator{"in", "in"},
};

constexpr std::array<std::string_view, 6> kOthers{"odd", "even", "divisibleby", "sameas", "lower", "upper"};

Result<bool> remainder_is(const Value& value, std::int64_t divisor, std::int64_t remainder) {
    FEDLLM_TRY(const auto number, integer_argument(value, "what is tested"));
    if (divisor == 0) return make_error(Errc::InvalidData, "division by zero");
    if (divisor == -1) return true;
    return ((number % divisor) + divisor) % divisor == remainder;
}

Result<bool> same_as(const Value& a, const Value& b) {
    if ((a.is_none() || a.boolean()) && (b.is_none() || b.boolean())) {
        return a.is_none() == b.is_none() && equal(a, b);
    }
    if (a.is_none() || b.is_none() || a.boolean() || b.boolean()) return false;
    return make_error(Errc::Unsupported, "the test 'sameas' is supported for true, false and none only");
}

// Python: some letter has a case, and none the other one.
Result<bool> has_case(const Value& value, bool upper) {
    FEDLLM_TRY(const auto text, to_text(value));
    FEDLLM_TRY(const auto changed, upper ? to_upper(text) : to_lower(text));
    return changed == text && std::any_of(text.begin(), text.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
           });
}

template <class Table>
auto find_named(const Table& table, std::string_view name) {
    return std::find_if(table.begin(), table.end(), [&](const auto& entry) { return entry.name == name; });
}

}  // namespace

bool is_test(std::string_view name) {
    return find_named(kSimple, name) != kSimple.end() || find_named(kOperators, name) != kOperators.end() ||
           std::find(kOthers.begin(), kOthers.end(), name) != kOthers.end();
}

std::string list_tests() {
    std::string list;
    for (const auto& test : kSimple) list += std::string(test.name) + ", ";
    for (const auto& test : kOperators) list += std::string(test.name) + ", ";
    for (const auto name : kOthers) list += std::string(name) + (name == kOthers.back() ? "" : ", ");
    return list;
}

Result<bool> apply_test(Context context, std::string_view name, const Value& value,
                        const Arguments& arguments) {
    if (const auto simple = find_named(kSimple, name); simple != kSimple.end()) {
        FEDLLM_TRY_VOID(arguments.check({}));
        return simple->holds(value);
    }
    if (!is_test(name)) {
        return make_error(Errc::Unsupported, "the test '" + std::string(name) +
                                                 "' is not supported; supported are " + list_tests());
    }
    const bool alone = name == "odd" || name == "even" || name == "lower" || name == "upper";
    if (arguments.positional.size() != (alone ? 0 : 1) || !arguments.named.empty()) {
        return make_error(Errc::InvalidData, "the test '" + std::string(name) +
                                                 (alone ? "' takes no value" : "' takes one value"));
    }
    if (name == "odd") return remainder_is(value, 2, 1);
    if (name == "even") return remainder_is(value, 2, 0);
    if (alone) return has_case(value, name == "upper");
    const Value& other = arguments.positional[0];
    if (name == "sameas") return same_as(value, other);
    if (name == "divisibleby") {
        FEDLLM_TRY(const auto divisor, integer_argument(other, "the divisor"));
        return remainder_is(value, divisor, 0);
    }
    return relation(context, find_named(kOperators, name)->op, value, other);
}

}  // namespace fedllm::jinja
