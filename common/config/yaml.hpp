// Loading a configuration from YAML, and the texts generated from its table.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/config/field.hpp"

namespace fedllm::config {

// What the YAML walker needs of a field, whatever struct it belongs to.
struct Sink {
    std::string key;
    std::string type;
    bool required = false;
    std::function<Result<void>(const Scalars&)> read;
};

// Walks the document and feeds each scalar to the sink of its dotted key. Errors are InvalidConfig and read
// "FILE:LINE: KEY: what is wrong"; an unknown key names the nearest known one.
Result<void> read_yaml(const std::string& text, const std::string& source, const std::vector<Sink>& sinks);

struct Printed {
    std::string key;
    std::string value;
    std::string help;  // printed as a comment above when not empty
};
std::string write_yaml(const std::vector<Printed>& rows);  // nested sections from dotted keys, in order

template <class C>
Result<C> parse_yaml(const std::string& text, const std::string& source, const Table<C>& table) {
    C config;
    std::vector<Sink> sinks;
    for (const Field<C>& field : table) {
        sinks.push_back({field.key, field.type, field.options.required,
                         [&config, &field](const Scalars& scalars) { return field.read(config, scalars); }});
    }
    FEDLLM_TRY_VOID(read_yaml(text, source, sinks));
    return config;
}

template <class C>
Result<C> load_yaml(const Path& path, const Table<C>& table) {
    FEDLLM_TRY(const std::string text, read_file(path, std::size_t{1} << 20));
    return parse_yaml(text, path.string(), table);
}

enum class Comments { No, Yes };

// The effective configuration as YAML that loads back to an equal struct (secrets excepted).
template <class C>
std::string print_yaml(const C& config, const Table<C>& table, Comments comments = Comments::No) {
    std::vector<Printed> rows;
    for (const Field<C>& field : table) {
        rows.push_back({field.key, field.options.secret ? "<redacted>" : field.print(config),
                        comments == Comments::Yes ? field.help : ""});
    }
    return write_yaml(rows);
}

// A Markdown table of every key: type, default, bounds, meaning.
template <class C>
std::string reference_page(const std::string& title, const Table<C>& table) {
    const C defaults;
    std::string page =
        "# " + title + "\n\n| key | type | default | bounds | meaning |\n|---|---|---|---|---|\n";
    for (const Field<C>& field : table) {
        std::string bounds;
        if (field.options.min) bounds += ">= " + print_double(*field.options.min);
        if (field.options.max)
            bounds += (bounds.empty() ? "<= " : ", <= ") + print_double(*field.options.max);
        page += "| `" + field.key + "` | " + field.type + " | " +
                (field.options.required ? "required" : "`" + field.print(defaults) + "`") + " | " + bounds +
                " | " + field.help + (field.options.reloadable ? " (reloadable)" : "") + " |\n";
    }
    return page;
}

}  // namespace fedllm::config
