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

Result<void> check_tensor(const TensorToWrite& tensor, std::set<std::string_view>& names) {
    const auto fail = [&](const std::string& what) {
        return make_error(Errc::InvalidArgument, "tensor " + in_quotes(tensor.name) + ": " + what);
    };
    if (tensor.name.empty() || tensor.name == "__metadata__") return fail("this name cannot be written");
    if (!names.insert(tensor.name).second) return fail("listed twice");
    if (tensor.shape.size() > kRankMax) return fail("more than 8 dimensions");
    std::uint64_t size = tensor::size_of(tensor.dtype);
    for (const auto dimension : tensor.shape) {
        if (dimension != 0 && size > std::numeric_limits<std::uint64_t>::max() / dimension) {
            return fail("its shape overflows 64 bits");
        }
        size *= dimension;
    }
    if (size != tensor.bytes.size()) {
        return fail("has " + std::to_string(tensor.bytes.size()) + " bytes, its shape and type need " +
                    std::to_string(size));
    }
    return {};
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
    for (const TensorToWrite* tensor : tensors) {
        FEDLLM_TRY(const std::string name, quote_json(tensor->name));
        header.append(header.size() > 1 ? "," : "").append(name).append(":{\"dtype\":\"");
        header += tensor::name(tensor->dtype);
        header += "\",\"shape\":[";
        for (std::size_t i = 0; i < tensor->shape.size(); ++i) {
            if (i > 0) header += ',';
            header += std::to_string(tensor->shape[i]);
        }
        header += "],\"data_offsets\":[" + std::to_string(offset) + ",";
        offset += tensor->bytes.size();
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

Result<void> write_safetensors(const Path& path, std::span<const TensorToWrite> tensors,
                               const std::map<std::string, std::string>& metadata) {
    if (tensors.size() > kTensorsMax) {
        return make_error(Errc::TooLarge, path.string() + ": " + std::to_string(tensors.size()) +
                                              " tensors, at most " + std::to_string(kTensorsMax) +
                                              " are written");
    }
    std::set<std::string_view> names;
    std::vector<const TensorToWrite*> order;
    for (const TensorToWrite& tensor : tensors) {
        if (auto checked = check_tensor(tensor, names); !checked)
            return with_context(checked.error(), path.string());
        order.push_back(&tensor);
    }
    std::stable_sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
        return tensor::size_of(a->dtype) > tensor::size_of(b->dtype);
    });
    const auto header = build_header(order, metadata);
    if (!header) return with_context(header.error(), path.string());

    FEDLLM_TRY(Temporary file, Temporary::create(path));
    const std::uint64_t length = header->size();
    FEDLLM_TRY_VOID(file.append(std::as_bytes(std::span(&length, 1))));
    FEDLLM_TRY_VOID(file.append(std::as_bytes(std::span(header->data(), length))));
    for (const TensorToWrite* tensor : order) FEDLLM_TRY_VOID(file.append(tensor->bytes));
    return file.commit(path);
}

}  // namespace fedllm::formats
