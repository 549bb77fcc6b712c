#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "common/formats/json.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::formats {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "tensors are used in place and stored little-endian");

constexpr std::string_view kMetadataKey = "__metadata__";

struct Layout {
    std::string_view file;  // for messages
    std::span<const std::byte> data;
};

Error broken(std::string_view file, std::string_view tensor, const std::string& what) {
    return make_error(Errc::InvalidFile, std::string(file) + ": tensor " + in_quotes(tensor) + ": " + what);
}

std::optional<std::uint64_t> checked_multiply(std::uint64_t a, std::uint64_t b) {
    if (a != 0 && b > std::numeric_limits<std::uint64_t>::max() / a) return std::nullopt;
    return a * b;
}

Result<std::string_view> header_text(std::string_view file, std::span<const std::byte> bytes) {
    std::uint64_t length = 0;
    if (bytes.size() < sizeof length) {
        return make_error(Errc::InvalidFile,
                          std::string(file) + ": " + std::to_string(bytes.size()) +
                              " bytes are too few for a safetensors file; is it complete?");
    }
    std::memcpy(&length, bytes.data(), sizeof length);
    if (length > kHeaderBytesMax) {
        return make_error(Errc::TooLarge, std::string(file) + ": announces a header of " +
                                              std::to_string(length) + " bytes, at most " +
                                              std::to_string(kHeaderBytesMax) +
                                              " are read; is it a safetensors file?");
    }
    if (length > bytes.size() - sizeof length) {
        return make_error(Errc::InvalidFile, std::string(file) + ": announces a header of " +
                                                 std::to_string(length) + " bytes but has only " +
                                                 std::to_string(bytes.size() - sizeof length) +
                                                 " after the length; the file is cut short");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
    if (!text.starts_with('{')) {
        return make_error(Errc::InvalidFile, std::string(file) + ": the header does not start with '{'");
    }
    return text;
}

Result<std::vector<std::uint64_t>> unsigned_list(std::string_view file, std::string_view tensor,
                                                 const Json& entry, const char* key, std::size_t size_max) {
    const auto& list = entry.at(key);
    if (!list.is_array() || list.size() > size_max) {
        return broken(
            file, tensor,
            std::string("'") + key + "' must be a list of at most " + std::to_string(size_max) + " numbers");
    }
    std::vector<std::uint64_t> values;
    for (const auto& item : list) {
        if (!item.is_number_unsigned()) {
            return broken(file, tensor,
                          std::string("'") + key + "' must hold whole numbers from 0 to 2^64 - 1");
        }
        values.push_back(item.get<std::uint64_t>());
    }
    return values;
}

Result<void> check_keys(std::string_view file, std::string_view tensor, const Json& entry) {
    constexpr std::array<const char*, 3> kKeys{"dtype", "shape", "data_offsets"};
    if (!entry.is_object()) return broken(file, tensor, "its entry is not a JSON object");
    for (const char* key : kKeys) {
        if (!entry.contains(key)) return broken(file, tensor, std::string("'") + key + "' is missing");
    }
    if (entry.size() != kKeys.size())
        return broken(file, tensor, "has keys besides dtype, shape, data_offsets");
    return {};
}

Result<tensor::DType> parse_dtype(std::string_view file, std::string_view tensor, const Json& value) {
    if (!value.is_string()) return broken(file, tensor, "'dtype' must be a string");
    const auto& text = value.get_ref<const std::string&>();
    if (const auto dtype = tensor::dtype_named(text)) return *dtype;
    return make_error(Errc::Unsupported, std::string(file) + ": tensor " + in_quotes(tensor) +
                                             ": element type " + in_quotes(text) +
                                             " is unknown; F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL are read");
}

Result<TensorInfo> parse_tensor(const Layout& layout, const std::string& name, const Json& entry) {
    const auto file = layout.file;
    FEDLLM_TRY_VOID(check_keys(file, name, entry));
    TensorInfo tensor;
    tensor.name = name;
    FEDLLM_TRY(tensor.dtype, parse_dtype(file, name, entry.at("dtype")));
    FEDLLM_TRY(tensor.shape, unsigned_list(file, name, entry, "shape", kRankMax));
    FEDLLM_TRY(const auto offsets, unsigned_list(file, name, entry, "data_offsets", 2));

    std::optional<std::uint64_t> size = tensor::size_of(tensor.dtype);
    for (const auto dimension : tensor.shape) {
        if (size) size = checked_multiply(*size, dimension);
    }
    if (!size) return broken(file, name, "its shape overflows 64 bits");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > layout.data.size()) {
        return broken(file, name,
                      "'data_offsets' do not lie within the " + std::to_string(layout.data.size()) +
                          " data bytes of the file; is it cut short?");
    }
    if (offsets[1] - offsets[0] != *size) {
        return broken(file, name,
                      "has " + std::to_string(offsets[1] - offsets[0]) + " bytes, its shape and type need " +
                          std::to_string(*size));
    }
    tensor.bytes = layout.data.subspan(offsets[0], *size);
    return tensor;
}

Result<std::map<std::string, std::string>> parse_metadata(std::string_view file, const Json& entry) {
    std::map<std::string, std::string> metadata;
    if (!entry.is_object()) {
        return make_error(Errc::InvalidFile, std::string(file) + ": '__metadata__' must be an object");
    }
    for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) {
            return make_error(Errc::InvalidFile, std::string(file) + ": '__metadata__' key " +
                                                     in_quotes(key) + " must be a string");
        }
        metadata.emplace(key, value.get<std::string>());
    }
    return metadata;
}

// The tensors, sorted by offset, must tile the data: no overlap (an amplification attack), no hole (hidden
// bytes).
Result<void> check_tiling(const Layout& layout, std::span<const TensorInfo> tensors) {
    const std::byte* expected = layout.data.data();
    for (const TensorInfo& tensor : tensors) {
        if (tensor.bytes.data() != expected) {
            return broken(layout.file, tensor.name,
                          tensor.bytes.data() < expected ? "its data overlaps another tensor's"
                                                         : "there are unused bytes before its data");
        }
        expected += tensor.bytes.size();
    }
    const auto left = static_cast<std::size_t>(layout.data.data() + layout.data.size() - expected);
    if (left == 0) return {};
    return make_error(Errc::InvalidFile, std::string(layout.file) + ": " + std::to_string(left) +
                                             " bytes after the last tensor's data");
}

}  // namespace

std::string describe(const TensorInfo& tensor) {
    std::string text = in_quotes(tensor.name) + " " + std::string(tensor::name(tensor.dtype)) + " [";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
        text += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
    }
    return text + "]";
}

Result<SafetensorsFile> SafetensorsFile::open(const Path& path) {
    FEDLLM_TRY(MappedFile map, MappedFile::open(path));
    SafetensorsFile file(path, std::move(map));
    const std::string source = path.string();
    FEDLLM_TRY(const std::string_view text, header_text(source, file.file_.bytes()));
    FEDLLM_TRY(const Json header, parse_json(text, source + " (header)"));
    if (header.size() > kTensorsMax + 1) {
        return make_error(Errc::TooLarge, source + ": " + std::to_string(header.size()) +
                                              " tensors, at most " + std::to_string(kTensorsMax) +
                                              " are read");
    }
    const Layout layout{source, file.file_.bytes().subspan(sizeof(std::uint64_t) + text.size())};
    for (const auto& [name, entry] : header.items()) {
        if (name == kMetadataKey) {
            FEDLLM_TRY(file.metadata_, parse_metadata(source, entry));
            continue;
        }
        FEDLLM_TRY(TensorInfo tensor, parse_tensor(layout, name, entry));
        file.tensors_.push_back(std::move(tensor));
    }
    // Empty tensors share their offset with the next one, so the end breaks the tie.
    std::sort(file.tensors_.begin(), file.tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
        return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data()
                                                : a.bytes.size() < b.bytes.size();
    });
    FEDLLM_TRY_VOID(check_tiling(layout, file.tensors_));
    for (std::size_t i = 0; i < file.tensors_.size(); ++i) file.index_.emplace(file.tensors_[i].name, i);
    return file;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace fedllm::formats
