#include "common/config/yaml.hpp"

#include <yaml-cpp/yaml.h>

#include <set>

#include "common/base/text.hpp"

namespace fedllm::config {
namespace {

constexpr int kDepthMax = 8;

class Walker {
public:
    Walker(const std::string& source, const std::vector<Sink>& sinks) : source_(source), sinks_(sinks) {}

    Result<void> walk(const YAML::Node& node, const std::string& prefix, int depth) {
        if (depth > kDepthMax) return wrong(node, prefix, "sections are nested too deeply");
        std::set<std::string> seen;
        for (const auto& entry : node) {
            if (!entry.first.IsScalar()) return wrong(entry.first, prefix, "a key must be plain text");
            const std::string key =
                prefix.empty() ? entry.first.Scalar() : prefix + "." + entry.first.Scalar();
            if (!seen.insert(key).second) return wrong(entry.first, key, "this key is given twice");
            FEDLLM_TRY_VOID(visit(entry.first, entry.second, key, depth));
        }
        return {};
    }

    Result<void> check_required() const {
        for (const Sink& sink : sinks_) {
            if (sink.required && !given_.contains(sink.key)) {
                return make_error(Errc::InvalidConfig,
                                  source_ + ": " + sink.key + ": this key is required (" + sink.type + ")");
            }
        }
        return {};
    }

private:
    Result<void> visit(const YAML::Node& key_node, const YAML::Node& value, const std::string& key,
                       int depth) {
        for (const Sink& sink : sinks_) {
            if (sink.key == key) return feed(key_node, value, sink);
        }
        if (is_section(key) && value.IsMap()) return walk(value, key, depth + 1);
        if (is_section(key) && value.IsNull()) return {};
        if (is_section(key)) return wrong(key_node, key, "this is a section: indent its keys under it");
        return wrong(key_node, key, "unknown key" + hint(key));
    }

    Result<void> feed(const YAML::Node& key_node, const YAML::Node& value, const Sink& sink) {
        Scalars scalars;
        if (value.IsScalar()) {
            scalars.items.push_back(value.Scalar());
        } else if (value.IsSequence()) {
            scalars.kind = Scalars::Kind::List;
            for (const auto& item : value) {
                if (!item.IsScalar()) return wrong(item, sink.key, "list items must be plain values");
                scalars.items.push_back(item.Scalar());
            }
        } else if (value.IsMap()) {
            scalars.kind = Scalars::Kind::Section;
            for (const auto& entry : value) {
                if (!entry.first.IsScalar() || !entry.second.IsScalar()) {
                    return wrong(entry.first, sink.key, "expected " + sink.type);
                }
                scalars.keys.push_back(entry.first.Scalar());
                scalars.items.push_back(entry.second.Scalar());
            }
        } else {
            return wrong(key_node, sink.key, "expected " + sink.type);
        }
        if (auto read = sink.read(scalars); !read) {
            return wrong(key_node, sink.key, read.error().message + " (expected " + sink.type + ")");
        }
        given_.insert(sink.key);
        return {};
    }

    bool is_section(const std::string& key) const {
        for (const Sink& sink : sinks_) {
            if (sink.key.starts_with(key + ".")) return true;
        }
        return false;
    }

    std::string hint(const std::string& key) const {
        std::vector<std::string_view> keys;
        for (const Sink& sink : sinks_) keys.push_back(sink.key);
        const std::string nearest = nearest_name(key, keys);
        return nearest.empty() ? "" : "; did you mean '" + nearest + "'?";
    }

    Error wrong(const YAML::Node& node, const std::string& key, const std::string& what) const {
        return make_error(Errc::InvalidConfig, source_ + ":" + std::to_string(node.Mark().line + 1) + ": " +
                                                   (key.empty() ? "" : key + ": ") + what);
    }

    const std::string& source_;
    const std::vector<Sink>& sinks_;
    std::set<std::string> given_;
};

}  // namespace

Result<void> read_yaml(const std::string& text, const std::string& source, const std::vector<Sink>& sinks) {
    YAML::Node root;
    try {  // yaml-cpp reports by exception; this is the one place that turns them into errors
        root = YAML::Load(text);
    } catch (const YAML::Exception& broken) {
        return make_error(Errc::InvalidConfig, source + ":" + std::to_string(broken.mark.line + 1) +
                                                   ": not valid YAML: " + broken.msg);
    }
    Walker walker(source, sinks);
    if (root.IsMap()) {
        FEDLLM_TRY_VOID(walker.walk(root, "", 0));
    } else if (!root.IsNull()) {
        return make_error(Errc::InvalidConfig, source + ":1: expected 'key: value' lines");
    }
    return walker.check_required();
}

std::string write_yaml(const std::vector<Printed>& rows) {
    std::string text;
    std::vector<std::string> open;  // sections we are inside of
    for (const Printed& row : rows) {
        std::vector<std::string> parts;
        std::size_t start = 0;
        for (std::size_t dot = row.key.find('.'); dot != std::string::npos; dot = row.key.find('.', start)) {
            parts.push_back(row.key.substr(start, dot - start));
            start = dot + 1;
        }
        std::size_t common = 0;
        while (common < open.size() && common < parts.size() && open[common] == parts[common]) ++common;
        open.resize(common);
        for (; common < parts.size(); ++common) {
            text += std::string(common * 2, ' ') + parts[common] + ":\n";
            open.push_back(parts[common]);
        }
        const std::string indent(open.size() * 2, ' ');
        if (!row.help.empty()) text += indent + "# " + row.help + "\n";
        text += indent + row.key.substr(start) + ":" + (row.value.starts_with('\n') ? "" : " ");
        for (const char c : row.value) text += c == '\n' ? "\n" + indent : std::string(1, c);
        text += "\n";
    }
    return text;
}

}  // namespace fedllm::config
