#include "common/jinja/list_filters.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "common/jinja/arithmetic.hpp"

namespace fedllm::jinja {
namespace {

// value.a.b, where parts that are numbers are indexes: the `attribute` of map, join, sort and the like.
Result<Value> follow(Value value, std::string_view path) {
    while (true) {
        const std::size_t dot = std::min(path.find('.'), path.size());
        const std::string_view part = path.substr(0, dot);
        std::int64_t index = 0;
        const bool number =
            std::from_chars(part.data(), part.data() + part.size(), index).ptr == part.data() + part.size();
        FEDLLM_TRY(value, item_of(value, number && !part.empty() ? Value(index) : Value(std::string(part))));
        if (dot == path.size()) return value;
        path.remove_prefix(dot + 1);
    }
}

Result<Value> follow(const Value& value, const Value* path) {
    if (!path || path->is_none()) return value;
    if (path->integer()) return item_of(value, *path);
    if (!path->text()) return make_error(Errc::InvalidData, "an attribute is a string or an integer");
    return follow(value, *path->text());
}

// What sorting and uniqueness compare: text in lower case, unless case counts.
Result<Value> comparable(Value value, bool case_sensitive) {
    if (case_sensitive || !value.text()) return value;
    FEDLLM_TRY(auto text, to_lower(*value.text()));
    return Value(std::move(text));
}

bool flag(const Arguments& arguments, std::size_t position, std::string_view name) {
    const Value* value = arguments.find(position, name);
    return value && truth(*value);
}

struct Keyed {
    Value key;
    Value item;
};

Result<std::vector<Keyed>> with_keys(Context context, const Value& value, const Value* attribute,
                                     bool case_sensitive) {
    FEDLLM_TRY(auto items, items_of(context, value));
    std::vector<Keyed> keyed;
    for (auto& item : items) {
        FEDLLM_TRY(auto key, follow(item, attribute));
        FEDLLM_TRY(key, comparable(std::move(key), case_sensitive));
        keyed.push_back({std::move(key), std::move(item)});
    }
    return keyed;
}

// Sorts stably. The first pair without an order is an error.
Result<void> sort_keyed(Context context, std::vector<Keyed>& items, bool reverse) {
    std::optional<Error> failure;
    const auto before = [&](const Keyed& a, const Keyed& b) {
        if (failure) return false;
        if (const auto paid = context.budget.step(1 + std::min(a.key.weight(), b.key.weight()) / 256);
            !paid) {
            failure = paid.error();
            return false;
        }
        const auto result = reverse ? less(b.key, a.key) : less(a.key, b.key);
        if (!result) failure = result.error();
        return result && *result;
    };
    std::stable_sort(items.begin(), items.end(), before);
    if (failure) return *failure;
    return {};
}

Result<Value> list_of(std::vector<Keyed> items) {
    std::vector<Value> out;
    for (auto& item : items) out.push_back(std::move(item.item));
    return make_sequence(std::move(out));
}

// select and its kin: keeps the items for which the test, or else truth, is `wanted`.
Result<Value> select(Context context, const Value& value, const Arguments& arguments, bool wanted,
                     bool of_attribute) {
    if (!arguments.named.empty())
        return make_error(Errc::Unsupported, "arguments with names are not supported here");
    const auto& given = arguments.positional;
    const std::size_t name_at = of_attribute ? 1 : 0;
    if (given.size() < name_at) return make_error(Errc::InvalidData, "expected the name of an attribute");
    Arguments rest;
    std::string test;
    if (given.size() > name_at) {
        if (!given[name_at].text() || !is_test(*given[name_at].text())) {
            return make_error(Errc::Unsupported, "no such test; supported are " + list_tests());
        }
        test = *given[name_at].text();
        rest.positional.assign(given.begin() + static_cast<std::ptrdiff_t>(name_at) + 1, given.end());
    }
    std::vector<Value> items, kept;
    if (truth(value)) {  // Jinja: none and the like have nothing to select from
        FEDLLM_TRY(items, items_of(context, value));
    }
    for (auto& item : items) {
        FEDLLM_TRY_VOID(context.budget.step(1));
        FEDLLM_TRY(const auto tested, follow(item, of_attribute ? &given[0] : nullptr));
        bool holds = truth(tested);
        if (!test.empty()) {
            FEDLLM_TRY(holds, apply_test(context, test, tested, rest));
        }
        if (holds == wanted) kept.push_back(std::move(item));
    }
    return make_sequence(std::move(kept), SequenceKind::Generator);
}

Result<Value> extreme(Context context, const Value& value, const Arguments& arguments, bool reverse) {
    FEDLLM_TRY_VOID(arguments.check({"case_sensitive", "attribute"}));
    FEDLLM_TRY(auto items, with_keys(context, value, arguments.find(1, "attribute"),
                                     flag(arguments, 0, "case_sensitive")));
    if (items.empty()) return Value(Undefined{reverse ? "max" : "min"});
    FEDLLM_TRY_VOID(sort_keyed(context, items, reverse));
    return items.front().item;
}

}  // namespace

Result<Value> filter_select(Context context, const Value& value, const Arguments& arguments) {
    return select(context, value, arguments, /*wanted=*/true, /*of_attribute=*/false);
}
Result<Value> filter_reject(Context context, const Value& value, const Arguments& arguments) {
    return select(context, value, arguments, /*wanted=*/false, /*of_attribute=*/false);
}
Result<Value> filter_selectattr(Context context, const Value& value, const Arguments& arguments) {
    return select(context, value, arguments, /*wanted=*/true, /*of_attribute=*/true);
}
Result<Value> filter_rejectattr(Context context, const Value& value, const Arguments& arguments) {
    return select(context, value, arguments, /*wanted=*/false, /*of_attribute=*/true);
}
Result<Value> filter_max(Context context, const Value& value, const Arguments& arguments) {
    return extreme(context, value, arguments, /*reverse=*/true);
}
Result<Value> filter_min(Context context, const Value& value, const Arguments& arguments) {
    return extreme(context, value, arguments, /*reverse=*/false);
}

Result<Value> filter_map(Context context, const Value& value, const Arguments& arguments) {
    const bool of_attribute = arguments.positional.empty();
    if (of_attribute) FEDLLM_TRY_VOID(arguments.check({"attribute", "default"}));
    const Value *attribute = arguments.find(1, "attribute"), *fallback = arguments.find(1, "default");
    Arguments rest;
    std::string name;
    if (!of_attribute) {
        if (!arguments.positional[0].text() || !is_filter(*arguments.positional[0].text())) {
            return make_error(Errc::Unsupported, "map: no such filter; supported are " + list_filters());
        }
        name = *arguments.positional[0].text();
        rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
        rest.named = arguments.named;
    } else if (!attribute) {
        return make_error(Errc::InvalidData, "map takes a filter's name, or an attribute");
    }
    std::vector<Value> items, out;
    if (truth(value)) {
        FEDLLM_TRY(items, items_of(context, value));
    }
    for (const auto& item : items) {
        FEDLLM_TRY_VOID(context.budget.step(1 + item.weight() / 256));
        FEDLLM_TRY(auto result,
                   of_attribute ? follow(item, attribute) : apply_filter(context, name, item, rest));
        if (result.is_undefined() && fallback) result = *fallback;
        FEDLLM_TRY_VOID(context.budget.charge(result.weight()));
        out.push_back(std::move(result));
    }
    return make_sequence(std::move(out), SequenceKind::Generator);
}

Result<Value> filter_join(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"d", "attribute"}));
    std::string between;
    if (const Value* given = arguments.find(0, "d")) {
        FEDLLM_TRY(between, to_text(*given));
    }
    FEDLLM_TRY(const auto items, items_of(context, value));
    std::string out;
    for (std::size_t i = 0; i < items.size(); ++i) {
        FEDLLM_TRY(const auto part, follow(items[i], arguments.find(1, "attribute")));
        FEDLLM_TRY(const auto text, to_text(part));
        FEDLLM_TRY_VOID(context.budget.charge(between.size() + text.size()));
        out += (i > 0 ? between : "") + text;
    }
    return Value(std::move(out));
}

Result<Value> filter_first(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    FEDLLM_TRY(const auto items, items_of(context, value));
    return items.empty() ? Value(Undefined{"first"}) : items.front();
}

Result<Value> filter_last(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (value.sequence() && value.sequence()->kind == SequenceKind::Generator) {
        return make_error(Errc::InvalidData,
                          "a generator has no last item; the filter list makes one that has");
    }
    FEDLLM_TRY(const auto items, items_of(context, value));
    return items.empty() ? Value(Undefined{"last"}) : items.back();
}

Result<Value> filter_list(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    FEDLLM_TRY(auto items, items_of(context, value));
    return make_sequence(std::move(items));
}

Result<Value> filter_items(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (!value.mapping() && !value.is_undefined()) {
        return make_error(Errc::InvalidData,
                          std::string("items are those of a dict, found ") + value.type_name());
    }
    if (value.is_undefined()) return make_sequence({}, SequenceKind::Generator);
    FEDLLM_TRY(const auto pairs, call_method(context, value, "items", {}));
    return make_sequence(pairs.sequence()->items, SequenceKind::Generator);
}

Result<Value> filter_reverse(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({}));
    if (value.text()) return slice_of(value, {}, {}, Value(std::int64_t{-1}));
    FEDLLM_TRY(auto items, items_of(context, value));
    std::reverse(items.begin(), items.end());
    return make_sequence(std::move(items), SequenceKind::Generator);
}

Result<Value> filter_sort(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"reverse", "case_sensitive", "attribute"}));
    const Value* attribute = arguments.find(2, "attribute");
    if (attribute && attribute->text() && attribute->text()->find(',') != std::string::npos) {
        return make_error(Errc::Unsupported, "sort by several attributes is not supported");
    }
    FEDLLM_TRY(auto items, with_keys(context, value, attribute, flag(arguments, 1, "case_sensitive")));
    FEDLLM_TRY_VOID(sort_keyed(context, items, flag(arguments, 0, "reverse")));
    return list_of(std::move(items));
}

Result<Value> filter_dictsort(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"case_sensitive", "by", "reverse"}));
    if (!value.mapping())
        return make_error(Errc::InvalidData, std::string("dictsort of ") + value.type_name());
    const Value* by = arguments.find(1, "by");
    const bool by_value = by && by->text() && *by->text() == "value";
    const Value position(std::int64_t{by_value ? 1 : 0});
    FEDLLM_TRY(const auto pairs, call_method(context, value, "items", {}));
    FEDLLM_TRY(auto items, with_keys(context, pairs, &position, flag(arguments, 0, "case_sensitive")));
    FEDLLM_TRY_VOID(sort_keyed(context, items, flag(arguments, 2, "reverse")));
    return list_of(std::move(items));
}

Result<Value> filter_sum(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"attribute", "start"}));
    const Value* start = arguments.find(1, "start");
    Value total = start ? *start : Value(std::int64_t{0});
    FEDLLM_TRY(const auto items, items_of(context, value));
    for (const auto& item : items) {
        FEDLLM_TRY(const auto next, follow(item, arguments.find(0, "attribute")));
        FEDLLM_TRY_VOID(context.budget.step(total.weight() / 256));
        FEDLLM_TRY(total, calculate(context, "+", total, next));
    }
    return total;
}

Result<Value> filter_unique(Context context, const Value& value, const Arguments& arguments) {
    FEDLLM_TRY_VOID(arguments.check({"case_sensitive", "attribute"}));
    FEDLLM_TRY(auto items, with_keys(context, value, arguments.find(1, "attribute"),
                                     flag(arguments, 0, "case_sensitive")));
    std::vector<Keyed> kept;
    for (auto& item : items) {
        FEDLLM_TRY_VOID(context.budget.step(kept.size() * (1 + item.key.weight() / 256)));
        const bool known = std::any_of(kept.begin(), kept.end(),
                                       [&](const Keyed& other) { return equal(other.key, item.key); });
        if (!known) kept.push_back(std::move(item));
    }
    std::vector<Value> out;
    for (auto& item : kept) out.push_back(std::move(item.item));
    return make_sequence(std::move(out), SequenceKind::Generator);
}

}  // namespace fedllm::jinja
