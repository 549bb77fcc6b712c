#include "common/jinja/arithmetic.hpp"

#include <algorithm>
#include <cmath>

namespace fedllm::jinja {
namespace {

Error no_operation(std::string_view op, const Value& left, const Value& right) {
    for (const auto* value : {&left, &right}) {
        if (const auto* undefined = value->undefined()) {
            return make_error(Errc::InvalidData, "'" + undefined->name + "' is undefined");
        }
    }
    return make_error(Errc::InvalidData, "there is no " + std::string(left.type_name()) + " " +
                                             std::string(op) + " " + right.type_name());
}

double as_double(const Value& value) {
    return value.real() ? *value.real() : static_cast<double>(*value.integer());
}

// Python rounds towards minus infinity, and the remainder has the sign of the divisor.
std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
    const std::int64_t quotient = a / b;
    return a % b != 0 && (a % b < 0) != (b < 0) ? quotient - 1 : quotient;
}

Result<Value> integers(std::string_view op, std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    bool overflow = false;
    if (op == "+")
        overflow = __builtin_add_overflow(a, b, &result);
    else if (op == "-")
        overflow = __builtin_sub_overflow(a, b, &result);
    else if (op == "*")
        overflow = __builtin_mul_overflow(a, b, &result);
    else if (b == 0)
        return make_error(Errc::InvalidData, "division by zero");
    else if (op == "/")
        return Value(static_cast<double>(a) / static_cast<double>(b));
    else if (b == -1)
        overflow = op == "//" && __builtin_sub_overflow(std::int64_t{0}, a, &result);
    else
        result = op == "//" ? floor_divide(a, b) : a - floor_divide(a, b) * b;
    if (overflow) return make_error(Errc::Unsupported, "an integer beyond 64 bits is not supported");
    return Value(result);
}

Result<Value> reals(std::string_view op, double a, double b) {
    if (op == "+") return Value(a + b);
    if (op == "-") return Value(a - b);
    if (op == "*") return Value(a * b);
    if (b == 0) return make_error(Errc::InvalidData, "division by zero");
    if (op == "/") return Value(a / b);
    double remainder = std::fmod(a, b);
    if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
    return Value(op == "%" ? remainder : std::floor((a - remainder) / b + 0.5));
}

std::string escape_html(std::string_view text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '&': out += "&amp;"; break;
            case '<': out += "&lt;"; break;
            case '>': out += "&gt;"; break;
            case '"': out += "&#34;"; break;
            case '\'': out += "&#39;"; break;
            default: out += c;
        }
    }
    return out;
}

Value join_texts(const Value& left, const Value& right) {
    const bool safe = left.is_safe() || right.is_safe();
    const auto side = [&](const Value& value) {
        return safe && !value.is_safe() ? escape_html(*value.text()) : *value.text();
    };
    return Value(Text{side(left) + side(right), safe});
}

Result<Value> repeat(Context context, const Value& value, std::int64_t times) {
    const auto count = static_cast<std::size_t>(std::max<std::int64_t>(times, 0));
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(std::max<std::size_t>(value.weight(), sizeof(Value)), count, &bytes))
        bytes = ~std::size_t{0};
    FEDLLM_TRY_VOID(context.budget.charge(bytes));
    if (const auto* text = value.text()) {
        std::string out;
        for (std::size_t i = 0; i < count; ++i) out += *text;
        return Value(Text{std::move(out), value.is_safe()});
    }
    std::vector<Value> items;
    for (std::size_t i = 0; i < count; ++i) {
        items.insert(items.end(), value.sequence()->items.begin(), value.sequence()->items.end());
    }
    return make_sequence(std::move(items), value.sequence()->kind);
}

bool is_list(const Value& value) { return value.sequence() && value.sequence()->kind <= SequenceKind::Tuple; }

}  // namespace

Result<Value> calculate(Context context, std::string_view op, const Value& left, const Value& right) {
    if (left.is_number() && right.is_number()) {
        if (left.real() || right.real()) return reals(op, as_double(left), as_double(right));
        return integers(op, *left.integer(), *right.integer());
    }
    if (op == "+" && left.text() && right.text()) return join_texts(left, right);
    if (op == "+" && is_list(left) && is_list(right) && left.sequence()->kind == right.sequence()->kind) {
        std::vector<Value> items = left.sequence()->items;
        items.insert(items.end(), right.sequence()->items.begin(), right.sequence()->items.end());
        return make_sequence(std::move(items), left.sequence()->kind);
    }
    if (op == "*" && (left.text() || is_list(left)) && right.integer())
        return repeat(context, left, *right.integer());
    if (op == "*" && (right.text() || is_list(right)) && left.integer())
        return repeat(context, right, *left.integer());
    if (op == "%" && left.text())
        return make_error(Errc::Unsupported, "formatting a string with '%' is not supported");
    return no_operation(op, left, right);
}

Result<Value> negate(const Value& value) {
    if (value.real()) return Value(-*value.real());
    if (value.integer()) return integers("-", 0, *value.integer());
    return make_error(Errc::InvalidData, std::string("there is no minus for ") + value.type_name());
}

Result<bool> relation(Context context, std::string_view op, const Value& left, const Value& right) {
    if (op == "==") return equal(left, right);
    if (op == "!=") return !equal(left, right);
    if (op == "in") return contains(context, right, left);
    if (op == "not in") {
        FEDLLM_TRY(const bool found, contains(context, right, left));
        return !found;
    }
    if (left.is_undefined() || right.is_undefined()) return no_operation(op, left, right);
    if (op == "<") return less(left, right);
    if (op == ">") return less(right, left);
    if (op == "<=" && equal(left, right)) return true;
    if (op == ">=" && equal(left, right)) return true;
    return op == "<=" ? less(left, right) : less(right, left);
}

namespace {

// One bound of a slice, in 0..size or, going backwards, -1..size-1.
Result<std::int64_t> bound_of(const Value& value, std::int64_t size, std::int64_t step, std::int64_t absent) {
    if (value.is_none()) return absent;
    FEDLLM_TRY(std::int64_t bound, integer_argument(value, "a slice's bound"));
    const std::int64_t low = step < 0 ? -1 : 0;
    const std::int64_t high = step < 0 ? size - 1 : size;
    if (bound < 0) bound = bound < -size ? low : bound + size;
    return std::clamp(bound, low, std::max(low, high));
}

template <class Item>
Result<std::vector<Item>> pick(const std::vector<Item>& items, const Value& begin, const Value& end,
                               std::int64_t step) {
    const auto size = static_cast<std::int64_t>(items.size());
    FEDLLM_TRY(const auto first, bound_of(begin, size, step, step < 0 ? size - 1 : 0));
    FEDLLM_TRY(const auto last, bound_of(end, size, step, step < 0 ? -1 : size));
    std::vector<Item> picked;
    for (std::int64_t i = first; step > 0 ? i < last : i > last;) {
        picked.push_back(items[static_cast<std::size_t>(i)]);
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return picked;
}

}  // namespace

Result<Value> slice_of(const Value& value, const Value& begin, const Value& end, const Value& step_value) {
    std::int64_t step = 1;
    if (!step_value.is_none()) {
        FEDLLM_TRY(step, integer_argument(step_value, "a slice's step"));
    }
    if (step == 0) return make_error(Errc::InvalidData, "a slice's step is zero");
    if (const auto* text = value.text()) {
        FEDLLM_TRY(const auto picked, pick(text_characters(*text), begin, end, step));
        std::string out;
        for (const auto character : picked) out += character;
        return Value(std::move(out));
    }
    if (is_list(value)) {
        FEDLLM_TRY(auto picked, pick(value.sequence()->items, begin, end, step));
        return make_sequence(std::move(picked), value.sequence()->kind);
    }
    if (value.is_undefined())
        return make_error(Errc::InvalidData, "'" + value.undefined()->name + "' is undefined");
    return make_error(Errc::InvalidData, std::string(value.type_name()) + " cannot be sliced");
}

}  // namespace fedllm::jinja
