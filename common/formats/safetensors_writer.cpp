#include <unistd.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "common/formats/json.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::formats {
namespace {

// Bytes of a tensor that can be written: its shape and type.
Result<std::uint64_t> size_of(const TensorToWrite& tensor) {
    const auto fail = [&](const std::string& what) {
        return make_error(Errc::InvalidArgument, "tensor " + in_quotes(tensor.name) + ": " + what);
    };
    if (tensor.name.empty() || tensor.name == "__metadata__") return fail("this name cannot be written");
    if (tensor.shape.size() > kRankMax) return fail("more than 8 dimensions");
    std::uint64_t size = tensor::size_of(tensor.dtype);
    for (const auto dimension : tensor.shape) {
        if (dimension != 0 && size > std::numeric_limits<std::uint64_t>::max() / dimension) {
            return fail("its shape overflows 64 bits");
        }
        size *= dimension;
    }
    return size;
}

// In the order of their data: wide elements before narrow ones.
std::vector<const TensorToWrite*> in_order(std::span<const TensorToWrite> tensors) {
    std::vector<const TensorToWrite*> order;
    for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
    std::stable_sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
        return tensor::size_of(a->dtype) > tensor::size_of(b->dtype);
    });
    return order;
}

Result<std::string> metadata_entry(const std::map<std::string, std::string>& metadata) {
    std::string text;
    for (const auto& [key, value] : metadata) {
        FEDLLM_TRY(const std::string quoted_key, quote_json(key));
        FEDLLM_TRY(const std::string quoted_value, quote_json(value));
        text += (text.empty() ? "" : ",") + quoted_key + ":" + quoted_value;
    }
    return text;
}

// Written by hand and not by a JSON library, so that its bytes never change with one.
Result<std::string> build_header(std::span<const TensorToWrite* const> tensors,
                                 const std::map<std::string, std::string>& metadata) {
    FEDLLM_TRY(const std::string meta, metadata_entry(metadata));
    std::string header = "{";
    if (!meta.empty()) header.append("\"__metadata__\":{").append(meta).append("}");
    std::uint64_t offset = 0;
    std::set<std::string_view> names;
    for (const TensorToWrite* tensor : tensors) {
        FEDLLM_TRY(const std::uint64_t size, size_of(*tensor));
        if (!names.insert(tensor->name).second) {
            return make_error(Errc::InvalidArgument, "tensor " + in_quotes(tensor->name) + ": listed twice");
        }
        FEDLLM_TRY(const std::string name, quote_json(tensor->name));
        header.append(header.size() > 1 ? "," : "").append(name).append(":{\"dtype\":\"");
        header += tensor::name(tensor->dtype);
        header += "\",\"shape\":[";
        for (std::size_t i = 0; i < tensor->shape.size(); ++i) {
            if (i > 0) header += ',';
            header += std::to_string(tensor->shape[i]);
        }
        header += "],\"data_offsets\":[" + std::to_string(offset) + ",";
        offset += size;
        header += std::to_string(offset) + "]}";
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    if (header.size() > kHeaderBytesMax) {
        return make_error(Errc::TooLarge, "the safetensors header would have " +
                                              std::to_string(header.size()) + " bytes, at most " +
                                              std::to_string(kHeaderBytesMax) + " are read");
    }
    return header;
}

// The temporary file beside the target; removed unless it was committed.
class Temporary {
public:
    static Result<Temporary> create(const Path& target) {
        Path path = target.string() + ".tmp" + std::to_string(::getpid());
        FEDLLM_TRY(auto file, disk().open(path, Disk::Open::Replace));
        return Temporary(std::move(path), std::move(file));
    }
    Temporary(Temporary&&) = default;
    ~Temporary() {
        if (file_) static_cast<void>(disk().remove(path_));  // what stays behind is overwritten by the next
    }

    Result<void> append(std::span<const std::byte> bytes) {
        FEDLLM_TRY_VOID(file_->write(length_, bytes));
        length_ += bytes.size();
        return {};
    }
    Result<void> commit(const Path& target) {
        FEDLLM_TRY_VOID(commit_file(path_, target));
        file_.reset();
        return {};
    }

private:
    Temporary(Path path, std::unique_ptr<DiskFile> file) : path_(std::move(path)), file_(std::move(file)) {}

    Path path_;
    std::unique_ptr<DiskFile> file_;  // while it is not committed
    std::uint64_t length_ = 0;
};

}  // namespace

Result<std::vector<std::byte>> safetensors_header(std::span<const TensorToWrite> tensors,
                                                  const std::map<std::string, std::string>& metadata) {
    if (tensors.size() > kTensorsMax) {
        return make_error(Errc::TooLarge, std::to_string(tensors.size()) + " tensors, at most " +
                                              std::to_string(kTensorsMax) + " are written");
    }
    FEDLLM_TRY(const std::string header, build_header(in_order(tensors), metadata));
    const std::uint64_t length = header.size();
    const auto head = std::as_bytes(std::span(&length, 1)), text = std::as_bytes(std::span(header));
    std::vector<std::byte> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), text.begin(), text.end());
    return bytes;
}

Result<void> write_safetensors(const Path& path, std::span<const TensorToWrite> tensors,
                               const std::map<std::string, std::string>& metadata) {
    const auto header = safetensors_header(tensors, metadata);
    if (!header) return with_context(header.error(), path.string());
    for (const TensorToWrite& tensor : tensors) {
        FEDLLM_TRY(const std::uint64_t size, size_of(tensor));
        if (size == tensor.bytes.size()) continue;
        return make_error(Errc::InvalidArgument, path.string() + ": tensor " + in_quotes(tensor.name) +
                                                     ": has " + std::to_string(tensor.bytes.size()) +
                                                     " bytes, its shape and type need " +
                                                     std::to_string(size));
    }

    FEDLLM_TRY(Temporary file, Temporary::create(path));
    FEDLLM_TRY_VOID(file.append(*header));
    for (const TensorToWrite* tensor : in_order(tensors)) FEDLLM_TRY_VOID(file.append(tensor->bytes));
    return file.commit(path);
}

}  // namespace fedllm::formats
