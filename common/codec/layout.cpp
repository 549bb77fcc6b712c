#include "common/codec/layout.hpp"

#include <algorithm>
#include <map>
#include <string>

namespace fedllm::codec {
namespace {

// "layers.11.q_proj" -> "layers.#.q_proj"
std::string without_numbers(const std::string& name) {
    std::string plain;
    for (const char c : name) {
        const bool digit = c >= '0' && c <= '9';
        if (!digit) plain += c;
        if (digit && (plain.empty() || plain.back() != '#')) plain += '#';
    }
    return plain;
}

}  // namespace

Layout layout_of(const tensor::Manifest& manifest) {
    Layout layout;
    std::map<std::string, std::uint32_t> groups;
    for (const tensor::TensorSpec& tensor : manifest.tensors()) {
        const auto next = std::min(static_cast<std::uint32_t>(groups.size()), kGroupsMax - 1);
        const std::uint32_t group = groups.emplace(without_numbers(tensor.name), next).first->second;
        layout.groups = std::max(layout.groups, group + 1);
        layout.elements += tensor.elements();
        if (!layout.runs.empty() && layout.runs.back().group == group) {
            layout.runs.back().elements += tensor.elements();
        } else {
            layout.runs.push_back({tensor.elements(), group});
        }
    }
    return layout;
}

}  // namespace fedllm::codec
