// GGUF, version 3: the file format of llama.cpp and its family. Writing only.
//
//   "GGUF" | version u32 | tensors u64 | keys u64
//   per key:     name | type u32 | value                      text: length u64, then the bytes
//   per tensor:  name | dimensions u32 | sizes u64 each, fastest first | type u32 | offset u64
//   padding to 32 | data, each tensor padded to 32; offsets count from the first
//
// All little-endian. Source: ggml's docs/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::formats {

enum class GgufType : std::uint32_t { F32 = 0, F16 = 1 };

using GgufValue = std::variant<std::uint32_t, float, std::string>;

struct GgufTensor {
    std::string name;                  // at most 64 bytes
    std::vector<std::uint64_t> shape;  // row-major, as everywhere here; written in reverse
    GgufType type = GgufType::F32;
    std::vector<std::byte> bytes;
};

// `floats` as the bytes of a tensor. NotFinite, naming `name`, for what f16 cannot hold.
Result<std::vector<std::byte>> gguf_bytes(std::span<const float> floats, GgufType type,
                                          const std::string& name);

// Keys and tensors in the order given; atomic. The same arguments give the same bytes.
Result<void> write_gguf(const Path& path, std::span<const std::pair<std::string, GgufValue>> keys,
                        std::span<const GgufTensor> tensors);

}  // namespace fedllm::formats
