// safetensors files put together by hand, valid or not.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>

#include "common/base/files.hpp"

namespace fedllm::test {

// The length as announced, the header, the data: as they are, nothing checked.
inline std::string safetensors_bytes(std::uint64_t length, std::string_view header, std::string_view data) {
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes.append(header).append(data);
}
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
    return safetensors_bytes(header.size(), header, data);
}

inline void write_bytes(const Path& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace fedllm::test
