#include "tests/client/cuda_engine/products_case.hpp"

#include <cmath>

#include "client/cuda_engine/buffers.hpp"
#include "client/cuda_engine/device_weights.hpp"
#include "client/cuda_engine/products.hpp"
#include "common/base/philox.hpp"

namespace fedllm::client::cuda_engine::cases {
namespace {

using kernels::cuda::cases::Harness;

// What an engine has around its products.
struct Bench {
    Bench(const Setting& setting, PanelStorage storage)
        : transfer(stream),
          host(setting.network()),
          weights(host, LinearWeights::OnlyInPanels, transfer),
          network(host.with_base(weights.views())),
          params(network.parameters()),
          gradients(network.parameters()),
          groups(host, params.data(), storage),
          panels(stream, network, host, groups, params.data(), storage, transfer),
          buffers(network, groups, setting.limits()),
          products(stream, network, panels, {params.data(), gradients.data()}, buffers.scratch(),
                   buffers.fp8()) {
        const tensor::ParamSet values = setting.params();
        transfer.to_device(params.data(), values.values().data(), params.bytes());
        panels.refresh();
        panels.begin(Panels::kTraining);
        buffers.clear(stream);
    }

    // Signs alone, of one size, or any values.
    void put(DeviceMatrix to, const char* name, bool signs) {
        Rng rng(17, name);
        for (std::size_t row = 0; row < to.rows; ++row) {
            std::vector<BF16> values(to.cols);
            for (BF16& value : values) {
                const float any = rng.normal();
                value = kernels::cuda::narrow(signs ? std::copysign(0.75F, any) : any);
            }
            transfer.to_device(to.row(row), values.data(), to.cols * sizeof(BF16));
        }
    }
    std::vector<float> get(DeviceMatrix from) {
        std::vector<float> all;
        std::vector<BF16> values(from.cols);
        for (std::size_t row = 0; row < from.rows; ++row) {
            transfer.to_host(values.data(), from.row(row), from.cols * sizeof(BF16));
            for (const BF16 value : values) all.push_back(kernels::cuda::widen(value));
        }
        return all;
    }

    // Y and dX of a group.
    std::vector<std::vector<float>> measure(GroupKind kind, DeviceMatrix x, DeviceMatrix y, DeviceMatrix add,
                                            DeviceMatrix dy, DeviceMatrix dx) {
        const Group& group = groups.at(1, kind);
        put(x, "x", true);
        if (add.data != nullptr) put(add, "add", false);
        products.forward(group, x, y, add);
        std::vector<std::vector<float>> results{get(y)};
        put(dy, "dy", true);
        products.backward(group, dy, x, dx);
        results.push_back(get(dx));
        return results;
    }
    std::vector<std::vector<float>> measure(GroupKind kind, std::size_t rows) {
        const LayerBuffers b = buffers.layer(1, rows);
        const BackwardBuffers back = buffers.backward(rows);
        const DeviceMatrix wide = back.wide;
        switch (kind) {
            case kQkvGroup: return measure(kind, b.normed, b.qkv, {}, back.qkv, back.normed);
            case kOGroup:
                return measure(kind, b.attended, b.middle, b.input, back.stream,
                               wide.columns(0, b.attended.cols));
            case kGateUpGroup: return measure(kind, b.normed_mlp, b.gate_up, {}, b.gate_up, back.normed);
            case kDownGroup:
                return measure(kind, b.act, buffers.head(rows).stream, b.middle, back.stream,
                               wide.columns(0, b.act.cols));
        }
        return {};
    }

    kernels::cuda::Stream stream;
    Transfer transfer;
    engine::Network host;
    DeviceWeights weights;
    engine::Network network;
    kernels::cuda::DeviceBuffer<float> params, gradients;
    Groups groups;
    Panels panels;
    Buffers buffers;
    Products products;
};

}  // namespace

void products_case(Harness& harness, Scenario scenario) {
    if (!multiplies_fp8(0)) return harness.skip("this GPU does not multiply in FP8");
    harness.begin("products in FP8");
    scenario.operands = kernels::Operands::E4m3;
    scenario.signs = true;
    const Setting setting(scenario);
    Bench fp8(setting, PanelStorage::Fp8), bf16(setting, PanelStorage::Resident);
    for (const std::size_t rows : {setting.limits().rows * scenario.tokens, std::size_t{1}}) {
        for (const GroupKind kind : {kQkvGroup, kOGroup, kGateUpGroup, kDownGroup}) {
            const auto got = fp8.measure(kind, rows), want = bf16.measure(kind, rows);
            for (const std::size_t which : {0, 1}) {
                // Rounded to bf16, by up to 2^-8, once here and twice there, before adapters are added and
                // then; before, a value may be a little larger than the largest one after.
                double most = 0;
                for (const float value : want[which]) most = std::max(most, std::fabs(double{value}));
                const std::vector<double> expected(want[which].begin(), want[which].end());
                harness.close(
                    got[which], expected, [&](std::size_t) { return most / 64; }, which == 0 ? "Y" : "dX");
            }
        }
    }
}

}  // namespace fedllm::client::cuda_engine::cases
