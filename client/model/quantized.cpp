#include "client/model/quantized.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/formats/json.hpp"
#include "kernels/quantize/code_books.hpp"
#include "kernels/quantize/op.hpp"

namespace fedllm::client::model {

using formats::SafetensorsFolder;
using formats::TensorInfo;
using kernels::WeightType;
using kernels::WeightView;
using tensor::BaseStorage;
using tensor::DType;
using Json = nlohmann::json;

bool all_finite(std::span<const float> values) {
    return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

namespace {

constexpr std::string_view kState = ".quant_state.bitsandbytes__";
constexpr std::size_t kStateBytesMax = 4096;
constexpr std::size_t kHeldBlock = 64;

// 'model.layers.0.mlp.up_proj.weight' -> 'model.layers.0.mlp.up_proj.SCB'
std::string sibling(const std::string& name, std::string_view last) {
    return name.substr(0, name.rfind('.') + 1) + std::string(last);
}

// What the JSON beside a 4-bit weight says.
struct FourBitState {
    WeightType type = WeightType::NF4;
    std::size_t block = 0;
    bool nested = false;
    float offset = 0;
};

class QuantizedReader {
public:
    QuantizedReader(const SafetensorsFolder& files, const std::string& name, std::size_t rows,
                    std::size_t cols)
        : files_(files), name_(name), rows_(rows), cols_(cols) {}

    Result<QuantizedWeight> read() {
        FEDLLM_TRY(const TensorInfo* const codes, take(name_));
        out_.held.view = {codes->bytes.data(), WeightType::Int8, rows_, cols_};
        if (files_.find(sibling(name_, "SCB")) != nullptr) {
            FEDLLM_TRY_VOID(read_int8(*codes));
        } else {
            FEDLLM_TRY_VOID(read_four_bit(*codes));
        }
        if (!all_finite(out_.held.scales)) return error(*codes, "has a scale that is not finite");
        out_.held.view.scales = out_.held.scales.data();
        return std::move(out_);
    }

private:
    Error error(const TensorInfo& tensor, const std::string& what, Errc code = Errc::InvalidModel) const {
        return make_error(
            code, files_.file_of(tensor.name) + ": tensor " + formats::describe(tensor) + ": " + what);
    }
    std::size_t elements() const { return rows_ * cols_; }

    Result<const TensorInfo*> take(const std::string& name) {
        const TensorInfo* tensor = files_.find(name);
        if (tensor == nullptr) {
            return make_error(Errc::InvalidModel, files_.file_of(name_) + ": tensor '" + name_ +
                                                      "' is quantised, but its companion '" + name +
                                                      "' is missing");
        }
        out_.tensors.push_back(tensor);
        return tensor;
    }
    // A companion of exactly `count` elements.
    Result<const TensorInfo*> take(const std::string& name, DType dtype, std::size_t count) {
        FEDLLM_TRY(const TensorInfo* const tensor, take(name));
        if (tensor->dtype == dtype && tensor->elements() == count) return tensor;
        return error(*tensor, "expected " + std::to_string(count) + " elements of " +
                                  std::string(tensor::name(dtype)) + " for a weight of [" +
                                  std::to_string(rows_) + ", " + std::to_string(cols_) + "]");
    }
    Result<std::vector<float>> take_floats(const std::string& name, std::size_t count) {
        FEDLLM_TRY(const TensorInfo* const tensor, take(name, DType::F32, count));
        return formats::read_floats(*tensor);
    }

    // value = code * SCB / 127. `weight_format` 0 is plain rows; older files do not say it.
    Result<void> read_int8(const TensorInfo& codes) {
        if (codes.dtype != DType::I8 || codes.shape != std::vector<std::uint64_t>{rows_, cols_}) {
            return error(codes, "LLM.int8 weights are I8 [" + std::to_string(rows_) + ", " +
                                    std::to_string(cols_) + "] here");
        }
        if (const std::string name = sibling(name_, "weight_format"); files_.find(name) != nullptr) {
            FEDLLM_TRY(const TensorInfo* const format, take(name, DType::U8, 1));
            if (format->bytes[0] != std::byte{0}) {
                return error(*format, "only format 0, rows in order, is supported", Errc::Unsupported);
            }
        }
        FEDLLM_TRY(out_.held.scales, take_floats(sibling(name_, "SCB"), rows_));
        for (float& scale : out_.held.scales) scale *= kernels::kInt8Step;
        return {};
    }

    Result<void> read_four_bit(const TensorInfo& codes) {
        FEDLLM_TRY(const FourBitState state, read_state());
        // bnb_4bit_quant_storage may give the same bytes any type.
        if (codes.bytes.size() != kernels::four_bit_bytes(elements())) {
            return error(codes, "expected " + std::to_string(kernels::four_bit_bytes(elements())) +
                                    " bytes of 4-bit codes for a weight of [" + std::to_string(rows_) + ", " +
                                    std::to_string(cols_) + "]");
        }
        out_.held.view.type = state.type;
        out_.held.view.block = state.block;
        FEDLLM_TRY_VOID(check_code_book(state.type));
        const std::size_t blocks = kernels::blocks_of(elements(), state.block);
        if (!state.nested) {
            FEDLLM_TRY(out_.held.scales, take_floats(name_ + ".absmax", blocks));
            return {};
        }
        FEDLLM_TRY(const TensorInfo* const absmax, take(name_ + ".absmax", DType::U8, blocks));
        FEDLLM_TRY(const auto nested,
                   take_floats(name_ + ".nested_absmax", kernels::blocks_of(blocks, kernels::kNestedBlock)));
        FEDLLM_TRY(const auto map, take_floats(name_ + ".nested_quant_map", 256));
        out_.held.scales.resize(blocks);
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(absmax->bytes.data());
        kernels::decode_scales({bytes, blocks}, nested, std::span<const float, 256>(map), state.offset,
                               out_.held.scales);
        return {};
    }

    Result<FourBitState> read_state() {
        const bool nf4 = files_.find(name_ + std::string(kState) + "nf4") != nullptr;
        FEDLLM_TRY(const TensorInfo* const tensor, take(name_ + std::string(kState) + (nf4 ? "nf4" : "fp4")));
        if (tensor->dtype != DType::U8 || tensor->bytes.size() > kStateBytesMax) {
            return error(*tensor,
                         "expected up to " + std::to_string(kStateBytesMax) + " bytes of JSON text as U8");
        }
        const std::string_view text(reinterpret_cast<const char*>(tensor->bytes.data()),
                                    tensor->bytes.size());
        FEDLLM_TRY(const Json json, formats::parse_json(text, files_.file_of(tensor->name) + ": tensor '" +
                                                                  tensor->name + "'"));
        return check_state(*tensor, json, nf4);
    }

    Result<FourBitState> check_state(const TensorInfo& tensor, const Json& json, bool nf4) const {
        const auto is = [&](const char* key, const Json& wanted) {
            return json.is_object() && json.contains(key) && json[key] == wanted;
        };
        FourBitState state{.type = nf4 ? WeightType::NF4 : WeightType::FP4};
        if (!is("quant_type", nf4 ? "nf4" : "fp4"))
            return error(tensor, "'quant_type' is not that of its name");
        if (!is("shape", Json::array({rows_, cols_}))) {
            return error(tensor, "'shape' must be [" + std::to_string(rows_) + ", " + std::to_string(cols_) +
                                     "], which config.json calls for");
        }
        const auto block = json.find("blocksize");
        if (block == json.end() || !block->is_number_unsigned() || !kernels::is_four_bit_block(*block)) {
            return error(tensor, "'blocksize' must be a power of two from 32 to 4096");
        }
        state.block = *block;
        state.nested = json.contains("nested_offset") || json.contains("nested_blocksize");
        if (!state.nested) return state;
        if (!is("nested_blocksize", kernels::kNestedBlock)) {
            return error(tensor, "'nested_blocksize' must be 256", Errc::Unsupported);
        }
        if (!is("nested_dtype", "float32")) {
            return error(tensor, "'nested_dtype' must be 'float32'", Errc::Unsupported);
        }
        const auto offset = json.find("nested_offset");
        if (offset == json.end() || !offset->is_number())
            return error(tensor, "'nested_offset' must be a number");
        state.offset = offset->get<float>();
        return state;
    }

    // bitsandbytes ignores the table that it saves; a file with another would mean something else.
    Result<void> check_code_book(WeightType type) {
        constexpr float kTolerance = 1e-4f;  // old releases wrote FP4's values in four digits
        const auto& values = type == WeightType::NF4 ? kernels::kNf4Values : kernels::kFp4Values;
        FEDLLM_TRY(const auto map, take_floats(name_ + ".quant_map", values.size()));
        for (std::size_t i = 0; i < values.size(); ++i) {
            if (std::abs(map[i] - values[i]) <= kTolerance) continue;
            return error(*out_.tensors.back(), "is not the code book of its type", Errc::Unsupported);
        }
        return {};
    }

    const SafetensorsFolder& files_;
    const std::string& name_;
    std::size_t rows_, cols_;
    QuantizedWeight out_;
};

HeldWeight hold_as_bf16(const WeightView& weight) {
    HeldWeight held;
    const std::size_t elements = weight.rows * weight.cols;
    held.bytes.resize(elements * sizeof(std::uint16_t));
    auto* const bits = reinterpret_cast<std::uint16_t*>(held.bytes.data());
    const auto* const values = static_cast<const float*>(weight.data);
    std::transform(values, values + elements, bits, tensor::f32_to_bf16);
    return held;
}

}  // namespace

bool is_quantized(const SafetensorsFolder& files, const std::string& name) {
    const TensorInfo* tensor = files.find(name);
    if (tensor == nullptr) return false;
    const std::string state = name + std::string(kState);
    return files.find(state + "nf4") != nullptr || files.find(state + "fp4") != nullptr ||
           (tensor->dtype == DType::I8 && files.find(sibling(name, "SCB")) != nullptr);
}

Result<QuantizedWeight> read_quantized(const SafetensorsFolder& files, const std::string& name,
                                       std::size_t rows, std::size_t cols) {
    return QuantizedReader(files, name, rows, cols).read();
}

WeightType held_type(BaseStorage storage) {
    switch (storage) {
        case BaseStorage::Int8: return WeightType::Int8;
        case BaseStorage::Nf4: return WeightType::NF4;
        case BaseStorage::Fp4: return WeightType::FP4;
        case BaseStorage::Bf16:
        case BaseStorage::AsStored: break;
    }
    return WeightType::BF16;
}

Result<HeldWeight> hold_as(kernels::ThreadPool& pool, const WeightView& weight, BaseStorage storage) {
    FEDLLM_CHECK(storage != BaseStorage::AsStored, "a type to hold the weight in");
    const std::size_t elements = weight.rows * weight.cols;
    const WeightType type = held_type(storage);
    HeldWeight held;
    if (type == WeightType::BF16) {
        held = hold_as_bf16(weight);
    } else if (type == WeightType::Int8) {
        held.bytes.resize(elements);
        held.scales.resize(weight.rows);
        kernels::quantize_int8(pool, weight, {reinterpret_cast<std::int8_t*>(held.bytes.data()), elements},
                               held.scales);
        for (float& scale : held.scales) scale *= kernels::kInt8Step;
    } else {
        held.bytes.resize(kernels::four_bit_bytes(elements));
        held.scales.resize(kernels::blocks_of(elements, kHeldBlock));
        kernels::quantize_four_bit(pool, weight, type, kHeldBlock,
                                   {reinterpret_cast<std::uint8_t*>(held.bytes.data()), held.bytes.size()},
                                   held.scales);
    }
    if (!all_finite(held.scales)) {
        return make_error(Errc::InvalidModel, "has a value that is not finite and cannot be quantised");
    }
    held.view = {held.bytes.data(), type, weight.rows, weight.cols, held.scales.data(), kHeldBlock};
    return held;
}

}  // namespace fedllm::client::model
