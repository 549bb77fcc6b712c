#include <cstring>

#include "common/formats/json.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::formats {
namespace {

// Data in a file need not be aligned, so elements are copied out, never dereferenced.
template <class Stored, class Convert>
void convert_each(const TensorInfo& tensor, std::span<float> out, Convert convert) {
    for (std::size_t i = 0; i < out.size(); ++i) {
        Stored stored;
        std::memcpy(&stored, tensor.bytes.data() + i * sizeof stored, sizeof stored);
        out[i] = convert(stored);
    }
}

}  // namespace

Result<void> read_floats(const TensorInfo& tensor, std::span<float> out) {
    FEDLLM_CHECK(out.size() == tensor.elements(), describe(tensor));
    switch (tensor.dtype) {
        case tensor::DType::F32:
            if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
            return {};
        case tensor::DType::F64:
            convert_each<double>(tensor, out, [](double value) { return static_cast<float>(value); });
            return {};
        case tensor::DType::F16: convert_each<std::uint16_t>(tensor, out, tensor::f16_to_f32); return {};
        case tensor::DType::BF16: convert_each<std::uint16_t>(tensor, out, tensor::bf16_to_f32); return {};
        default:
            return make_error(Errc::Unsupported,
                              "tensor " + describe(tensor) + ": expected floats (F32, F16, BF16 or F64)");
    }
}

Result<std::vector<float>> read_floats(const TensorInfo& tensor) {
    std::vector<float> values(tensor.elements());
    FEDLLM_TRY_VOID(read_floats(tensor, values));
    return values;
}

}  // namespace fedllm::formats
