// How expressions reach into values: value.name, value[key], in, and what loops see.
#include <algorithm>

#include "common/jinja/builtins.hpp"

namespace fedllm::jinja {
namespace {

Error undefined_error(const Value& value, const std::string& what) {
    return make_error(Errc::InvalidData, "'" + value.undefined()->name + "' is undefined, so " + what);
}

Value or_undefined(const Value* value, std::string_view name) {
    return value ? *value : Value(Undefined{std::string(name)});
}

Value loop_attribute(const Loop& loop, std::string_view name) {
    const auto& items = loop.items->items;
    const std::size_t size = items.size(), i = loop.index0;
    if (name == "index") return Value::count(i + 1);
    if (name == "index0") return Value::count(i);
    if (name == "revindex") return Value::count(size - i);
    if (name == "revindex0") return Value::count(size - i - 1);
    if (name == "first") return Value(i == 0);
    if (name == "last") return Value(i + 1 == size);
    if (name == "length") return Value::count(size);
    if (name == "depth") return Value::count(1);  // loops inside loops do not count, recursive ones would
    if (name == "depth0") return Value::count(0);
    if (name == "previtem" && i > 0) return items[i - 1];
    if (name == "nextitem" && i + 1 < size) return items[i + 1];
    return Value(Undefined{"loop." + std::string(name)});
}

// items[index], Python's way; null beyond the ends.
template <class Item>
const Item* at_index(const std::vector<Item>& items, std::int64_t index) {
    const auto size = static_cast<std::int64_t>(items.size());
    if (index < 0) index += size;
    return index < 0 || index >= size ? nullptr : &items[static_cast<std::size_t>(index)];
}

}  // namespace

Result<Value> attribute_of(const Value& value, std::string_view name) {
    if (value.is_undefined())
        return undefined_error(value, "it has no attribute '" + std::string(name) + "'");
    if (const auto* loop = value.loop()) {
        if (name == "cycle") return find_method(value, name);
        if (name == "changed") return make_error(Errc::Unsupported, "loop.changed is not supported");
        return loop_attribute(*loop, name);
    }
    if (const auto* names = value.names()) {
        const auto found = names->values.find(name);
        return or_undefined(found == names->values.end() ? nullptr : &found->second, name);
    }
    // Python's attributes come before a dict's entries.
    if (has_method(value, name)) return find_method(value, name);
    if (const auto* mapping = value.mapping()) return or_undefined(mapping->find(name), name);
    return Value(Undefined{std::string(name)});
}

Result<Value> item_of(const Value& value, const Value& key) {
    if (value.is_undefined()) return undefined_error(value, "it has no items");
    FEDLLM_TRY(const auto name, to_text(key));
    if (const auto* mapping = value.mapping()) {
        if (const Value* found = mapping->find(key)) return *found;
    } else if (key.integer() && (value.text() || value.sequence())) {
        if (const auto* text = value.text()) {
            const auto characters = text_characters(*text);
            const auto* character = at_index(characters, *key.integer());
            return character ? Value(std::string(*character)) : Value(Undefined{"item " + name});
        }
        if (value.sequence()->kind > SequenceKind::Range) {
            return make_error(Errc::Unsupported,
                              std::string("an item of ") + value.type_name() +
                                  " is not supported; the filter list makes one that has items");
        }
        return or_undefined(at_index(value.sequence()->items, *key.integer()), "item " + name);
    }
    if (!key.text()) return Value(Undefined{"item " + name});
    if (value.names() || value.loop() || has_method(value, name)) return attribute_of(value, name);
    return Value(Undefined{name});
}

Result<std::vector<Value>> items_of(Context context, const Value& value) {
    std::vector<Value> items;
    if (const auto* sequence = value.sequence()) {
        if (sequence->read) {
            return make_error(Errc::Unsupported,
                              "a generator is read twice, where it would be empty the second time");
        }
        sequence->read = sequence->kind == SequenceKind::Generator;
        items = sequence->items;
    } else if (const auto* mapping = value.mapping()) {
        for (const auto& [key, entry] : mapping->entries) items.push_back(key);
    } else if (const auto* text = value.text()) {
        for (const auto character : text_characters(*text)) items.emplace_back(std::string(character));
    } else if (!value.is_undefined()) {
        return make_error(Errc::InvalidData, std::string(value.type_name()) + " has no items");
    }
    FEDLLM_TRY_VOID(context.budget.charge(items.size() * sizeof(Value)));
    return items;
}

Result<bool> contains(Context context, const Value& container, const Value& item) {
    if (const auto* text = container.text()) {
        if (item.text()) return text->find(*item.text()) != std::string::npos;
        if (item.is_undefined()) return undefined_error(item, "it is in no string");
        return make_error(Errc::InvalidData,
                          std::string("only a string can be in a string, found ") + item.type_name());
    }
    if (const auto* mapping = container.mapping()) return mapping->find(item) != nullptr;
    FEDLLM_TRY(const auto items, items_of(context, container));
    return std::any_of(items.begin(), items.end(), [&](const Value& other) { return equal(other, item); });
}

}  // namespace fedllm::jinja
