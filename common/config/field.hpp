// A configuration is a struct of initialised members plus one table of fields. Loading, bounds, the
// nearest-name hint, --print-config, redaction and the reference page all come from that table.
//
//   struct Limits { std::uint32_t clients_max = 64; Duration idle = std::chrono::seconds(90); };
//   const Table<Limits> table{
//       field<Limits>("clients_max", [](auto& c) -> auto& { return c.clients_max; }, "clients at once", {.min
//       = 1}), field<Limits>("idle", [](auto& c) -> auto& { return c.idle; }, "close silent connections after
//       this"),
//   };
//
// A dotted key ("limits.idle") is a nested YAML section.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/config/value.hpp"

namespace fedllm::config {

struct FieldOptions {
    std::optional<double> min = {};
    std::optional<double> max = {};
    bool required = false;    // absence is an error
    bool secret = false;      // printed as "<redacted>"
    bool reloadable = false;  // takes effect on SIGHUP, without a restart
};

template <class C>
struct Field {
    std::string key;
    std::string help;
    std::string type;  // "duration", "one of lora, full": for the reference page and error texts
    FieldOptions options;
    std::function<Result<void>(C&, const Scalars&)> read;
    std::function<std::string(const C&)> print;  // as YAML
};

template <class C>
using Table = std::vector<Field<C>>;

template <class C, class Get>
Field<C> field(std::string key, Get get, std::string help, FieldOptions options = {}) {
    using T = std::remove_cvref_t<decltype(get(std::declval<C&>()))>;
    Field<C> result;
    result.key = std::move(key);
    result.help = std::move(help);
    result.type = Value<T>::type();
    result.options = options;
    result.read = [get, options](C& config, const Scalars& scalars) -> Result<void> {
        FEDLLM_TRY(T value, Value<T>::parse(scalars));
        if constexpr (requires { Value<T>::magnitude(value); }) {
            FEDLLM_TRY_VOID(check_bounds(Value<T>::magnitude(value), options.min, options.max));
        }
        get(config) = std::move(value);
        return {};
    };
    result.print = [get](const C& config) { return Value<T>::print(get(config)); };
    return result;
}

// Fields of a nested struct, under a section: prefixed("train", train_table, [](auto& c) -> auto& { return
// c.train; }).
template <class C, class Inner, class Get>
Table<C> prefixed(const std::string& section, const Table<Inner>& inner, Get get) {
    Table<C> table;
    for (const Field<Inner>& part : inner) {
        Field<C> whole;
        whole.key = section + "." + part.key;
        whole.help = part.help;
        whole.type = part.type;
        whole.options = part.options;
        whole.read = [part, get](C& config, const Scalars& scalars) {
            return part.read(get(config), scalars);
        };
        whole.print = [part, get](const C& config) { return part.print(get(config)); };
        table.push_back(std::move(whole));
    }
    return table;
}

template <class C>
void append(Table<C>& table, Table<C> more) {
    for (auto& field : more) table.push_back(std::move(field));
}

}  // namespace fedllm::config
