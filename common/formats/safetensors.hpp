// safetensors: named tensors in one file. A length (u64, little-endian), a JSON header padded with spaces,
// the data. Every byte of a file may be hostile: all sizes are checked before use, all arithmetic is checked
// for overflow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/tensor/dtype.hpp"

namespace fedllm::formats {

constexpr std::uint64_t kHeaderBytesMax = std::uint64_t{16} << 20;
constexpr std::size_t kTensorsMax = 100'000;
constexpr std::size_t kRankMax = 8;

struct TensorInfo {
    std::string name;
    tensor::DType dtype = tensor::DType::F32;
    std::vector<std::uint64_t> shape;  // row-major; empty for a scalar, a dimension may be 0
    std::span<const std::byte> bytes;  // into the map: little-endian, not necessarily aligned

    std::uint64_t elements() const { return bytes.size() / tensor::size_of(dtype); }
};

// "'a.b' F32 [2, 3]" for error messages.
std::string describe(const TensorInfo& tensor);

// Lifecycle: move-only; views and pointers stay valid while it lives, moves included.
// Limits: the three constants above. NaN and infinity are values like others here.
class SafetensorsFile {
public:
    // InvalidFile, TooLarge (a limit above) or Unsupported (an element type we do not know), naming file and
    // tensor.
    static Result<SafetensorsFile> open(const Path& path);

    const Path& path() const { return path_; }
    std::span<const TensorInfo> tensors() const { return tensors_; }  // in the order of their data
    const TensorInfo* find(std::string_view name) const;
    const std::map<std::string, std::string>& metadata() const { return metadata_; }

private:
    SafetensorsFile(Path path, MappedFile file) : path_(std::move(path)), file_(std::move(file)) {}

    Path path_;
    MappedFile file_;
    std::vector<TensorInfo> tensors_;
    std::map<std::string, std::size_t, std::less<>> index_;
    std::map<std::string, std::string> metadata_;
};

// A model folder: model.safetensors, or model.safetensors.index.json with the shards it lists.
class SafetensorsFolder {
public:
    static Result<SafetensorsFolder> open(const Path& folder);

    std::span<const SafetensorsFile> files() const { return files_; }
    std::size_t tensor_count() const { return index_.size(); }
    const TensorInfo* find(std::string_view name) const;
    const std::map<std::string, const TensorInfo*, std::less<>>& tensors() const {
        return index_;
    }  // by name
    // The file a tensor of this folder lies in, for error messages.
    std::string file_of(std::string_view name) const;

private:
    SafetensorsFolder() = default;
    Result<void> add(SafetensorsFile file);

    std::vector<SafetensorsFile> files_;
    std::map<std::string, const TensorInfo*, std::less<>> index_;
};

struct TensorToWrite {
    std::string name;
    tensor::DType dtype = tensor::DType::F32;
    std::vector<std::uint64_t> shape;
    std::span<const std::byte> bytes;
};

// Atomic, and the same bytes for the same input: wide elements before narrow ones so that every tensor is
// aligned, else in the order given; metadata first; the header padded with spaces so that the data starts at
// a multiple of 8.
Result<void> write_safetensors(const Path& path, std::span<const TensorToWrite> tensors,
                               const std::map<std::string, std::string>& metadata = {});

// What write_safetensors begins the file with, its length included; the tensors' bytes are not looked at.
Result<std::vector<std::byte>> safetensors_header(std::span<const TensorToWrite> tensors,
                                                  const std::map<std::string, std::string>& metadata = {});

// Any of F64, F32, F16, BF16 as floats (F64 is rounded); other types are Unsupported.
Result<std::vector<float>> read_floats(const TensorInfo& tensor);
// The same into a buffer of exactly tensor.elements().
Result<void> read_floats(const TensorInfo& tensor, std::span<float> out);

}  // namespace fedllm::formats
