// A name from the network as a plain file name.
#pragma once

#include <string>
#include <string_view>

namespace fedllm::client::update {

// Letters, digits and _ stay; everything else becomes '-', and what is too long is cut. What the replacement
// makes equal has to be told apart by the file's content.
inline std::string plain_file_name(std::string_view text, std::size_t length_max = 150) {
    std::string name(text.substr(0, length_max));
    for (char& c : name) {
        const bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!plain) c = '-';
    }
    return name;
}

}  // namespace fedllm::client::update
