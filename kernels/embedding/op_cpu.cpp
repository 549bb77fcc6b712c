#include "kernels/embedding/op.hpp"

#include <algorithm>
#include <cstring>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/embedding/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

void WidenRow(const std::uint16_t* from, float* to, std::size_t count) { widen_bf16(from, to, count); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(WidenRow);

}  // namespace

void embedding_forward(ThreadPool& pool, std::span<const std::int32_t> tokens, WeightView table, Matrix out) {
    FEDLLM_CHECK(out.rows == tokens.size() && out.cols == table.cols, "embedding_forward: shapes differ");
    FEDLLM_CHECK(table.type == WeightType::F32 || table.type == WeightType::BF16,
                 "embedding takes F32 and BF16 tables");
    pool.parallel_for(tokens.size(), [&](std::size_t m) {
        const std::size_t at = static_cast<std::size_t>(tokens[m]) * table.cols;
        if (table.type == WeightType::F32) {
            std::memcpy(out.row(m), static_cast<const float*>(table.data) + at, table.cols * sizeof(float));
        } else {
            const std::uint16_t* row = static_cast<const std::uint16_t*>(table.data) + at;
            HWY_DYNAMIC_DISPATCH(WidenRow)(row, out.row(m), table.cols);
        }
    });
}

void embedding_backward(ThreadPool& pool, std::span<const std::int32_t> tokens, ConstMatrix dout,
                        Matrix dtable) {
    FEDLLM_CHECK(dout.rows == tokens.size() && dout.cols == dtable.cols, "embedding_backward: shapes differ");
    constexpr std::size_t kCols = 64;  // a token may repeat, so the columns are shared out, not the tokens
    pool.parallel_for((dout.cols + kCols - 1) / kCols, [&](std::size_t block) {
        const std::size_t first = block * kCols;
        const std::size_t count = std::min(kCols, dout.cols - first);
        for (std::size_t m = 0; m < tokens.size(); ++m) {
            const float* from = dout.row(m) + first;
            float* to = dtable.row(static_cast<std::size_t>(tokens[m])) + first;
            for (std::size_t c = 0; c < count; ++c) to[c] += from[c];
        }
    });
}

}  // namespace fedllm::kernels
#endif
