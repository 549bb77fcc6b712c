// Answers quantize_peer.py, a JSON line for a JSON line:
//   {"quantize": FILE, "kind": "nf4", "block": 64, "out": FILE}   every tensor of a safetensors file:
//   <name>.codes,
//                                                                 .absmax, .values; kind "int8" has no block
//   {"model": FOLDER, "ids": [...], "storage": "as_stored"}       logits after the last token, and q_proj's
//   type
#include <iostream>
#include <nlohmann/json.hpp>

#include "client/engine/decoder.hpp"
#include "client/model/base_model.hpp"
#include "common/formats/safetensors.hpp"
#include "common/job/job_spec.hpp"
#include "kernels/quantize/op.hpp"

namespace {

using namespace fedllm;
using kernels::WeightType;
using kernels::WeightView;
using nlohmann::json;

std::vector<std::uint8_t> as_vector(std::span<const std::byte> bytes) {
    const auto* first = reinterpret_cast<const std::uint8_t*>(bytes.data());
    return {first, first + bytes.size()};
}

struct Encoded {
    std::vector<std::uint8_t> codes;
    std::vector<float> absmax, values;
};

Encoded encode(kernels::ThreadPool& pool, const WeightView& from, const std::string& kind,
               std::size_t block) {
    const std::size_t elements = from.rows * from.cols;
    Encoded out;
    out.values.resize(elements);
    if (kind == "int8") {
        std::vector<std::int8_t> codes(elements);
        out.absmax.resize(from.rows);
        kernels::quantize_int8(pool, from, codes, out.absmax);
        kernels::dequantize_int8(codes, out.absmax, out.values);
        out.codes = as_vector(std::as_bytes(std::span(codes)));
        return out;
    }
    const WeightType type = kind == "nf4" ? WeightType::NF4 : WeightType::FP4;
    out.codes.resize(kernels::four_bit_bytes(elements));
    out.absmax.resize(kernels::blocks_of(elements, block));
    kernels::quantize_four_bit(pool, from, type, block, out.codes, out.absmax);
    kernels::dequantize(pool, {out.codes.data(), type, from.rows, from.cols, out.absmax.data(), block},
                        out.values);
    return out;
}

Result<json> quantize(kernels::ThreadPool& pool, const json& request) {
    FEDLLM_TRY(const auto file, formats::SafetensorsFile::open(request["quantize"].get<std::string>()));
    std::vector<Encoded> encoded;
    for (const auto& tensor : file.tensors()) {
        const auto type = tensor.dtype == tensor::DType::BF16 ? WeightType::BF16 : WeightType::F32;
        const WeightView from{tensor.bytes.data(), type, tensor.shape.at(0), tensor.shape.at(1)};
        encoded.push_back(encode(pool, from, request["kind"], request.value("block", std::size_t{64})));
    }
    std::vector<formats::TensorToWrite> out;
    for (std::size_t i = 0; i < encoded.size(); ++i) {
        const std::string& name = file.tensors()[i].name;
        const auto add = [&](const char* end, tensor::DType dtype, const auto& values) {
            out.push_back({name + end, dtype, {values.size()}, std::as_bytes(std::span(values))});
        };
        add(".codes", tensor::DType::U8, encoded[i].codes);
        add(".absmax", tensor::DType::F32, encoded[i].absmax);
        add(".values", tensor::DType::F32, encoded[i].values);
    }
    FEDLLM_TRY_VOID(formats::write_safetensors(request["out"].get<std::string>(), out));
    return json{{"tensors", encoded.size()}};
}

Result<json> logits(kernels::ThreadPool& pool, const json& request) {
    tensor::BaseSpec spec;
    for (const auto& [storage, name] : config::EnumNames<tensor::BaseStorage>::rows) {
        if (request.value("storage", "as_stored") == name) spec.storage = storage;
    }
    FEDLLM_TRY(const auto base, client::model::BaseModel::load(request["model"].get<std::string>(), spec));
    FEDLLM_TRY(const auto network, client::engine::Network::create(base.config(), base.weights(), {}));
    const auto ids = request["ids"].get<std::vector<std::int32_t>>();
    FEDLLM_TRY(auto decoder, client::engine::Decoder::create(pool, network, ids.size()));
    const tensor::ParamSet nothing;
    FEDLLM_TRY(const auto values, decoder.append(ids, nothing));
    const auto type = base.weights().at(client::model::kQ, 0).weight.type;
    return json{{"logits", std::vector<float>(values.begin(), values.end())},
                {"type", static_cast<int>(type)}};
}

}  // namespace

int main() {
    kernels::ThreadPool pool(2);
    for (std::string line; std::getline(std::cin, line);) {
        const json request = json::parse(line);
        const auto answer = request.contains("quantize") ? quantize(pool, request) : logits(pool, request);
        std::cout << (answer ? *answer : json{{"error", to_string(answer.error())}}).dump() << std::endl;
    }
}
