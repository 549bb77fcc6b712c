#include "kernels/lora_matmul/op.hpp"

#include "common/base/result.hpp"
#include "kernels/matmul/gemm.hpp"

namespace fedllm::kernels {

namespace {

// What does not need the base: ds, and the gradients of the adapter.
void adapter_gradients(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, LoraView lora, ConstMatrix s,
                       Matrix ds, LoraGradView grad) {
    FEDLLM_CHECK(ds.rows == dy.rows && ds.cols == lora.b.cols && s.rows == ds.rows && s.cols == ds.cols,
                 "lora backward: s and ds are (M,R)");
    gemm(pool, {rows_of(dy), columns_of(lora.b), dy.cols, lora.scale}, ds, Write::Overwrite);
    gemm(pool, {columns_of(ds), columns_of(x), dy.rows}, grad.da, Write::Accumulate);
    gemm(pool, {columns_of(dy), columns_of(s), dy.rows, lora.scale}, grad.db, Write::Accumulate);
}

}  // namespace

void lora_matmul_forward(ThreadPool& pool, ConstMatrix x, WeightView w, LoraView lora, Matrix s, Matrix y,
                         Operands operands) {
    FEDLLM_CHECK(x.cols == w.cols && y.rows == x.rows && y.cols == w.rows,
                 "lora_matmul_forward: shapes differ");
    FEDLLM_CHECK(lora.a.cols == x.cols && lora.b.rows == w.rows && lora.a.rows == lora.b.cols,
                 "lora_matmul_forward: the adapter does not fit the weight");
    FEDLLM_CHECK(s.rows == x.rows && s.cols == lora.a.rows, "lora_matmul_forward: s is (M,R)");
    gemm(pool, {rows_of(x), rows_of(lora.a), x.cols}, s, Write::Overwrite);
    gemm(pool, {rows_of(x), rows_of(w), x.cols, 1.0f, operands},
         {rows_of(s), rows_of(lora.b), s.cols, lora.scale}, y, Write::Overwrite);
}

void lora_matmul_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, WeightView w, LoraView lora,
                          ConstMatrix s, Matrix ds, Matrix dx, LoraGradView grad, Write dx_write,
                          Operands operands) {
    FEDLLM_CHECK(dy.rows == x.rows && dy.cols == w.rows && x.cols == w.cols,
                 "lora_matmul_backward: shapes differ");
    adapter_gradients(pool, dy, x, lora, s, ds, grad);
    if (dx.data == nullptr) return;
    FEDLLM_CHECK(dx.rows == dy.rows && dx.cols == w.cols, "lora_matmul_backward: dx is (M,K)");
    gemm(pool, {rows_of(dy), columns_of(w), dy.cols, 1.0f, operands},
         {rows_of(ds), columns_of(lora.a), ds.cols}, dx, dx_write);
}

void lora_add_forward(ThreadPool& pool, ConstMatrix x, LoraView lora, Matrix s, Matrix y) {
    FEDLLM_CHECK(
        lora.a.cols == x.cols && lora.b.rows == y.cols && lora.a.rows == lora.b.cols && y.rows == x.rows,
        "lora_add_forward: shapes differ");
    FEDLLM_CHECK(s.rows == x.rows && s.cols == lora.a.rows, "lora_add_forward: s is (M,R)");
    gemm(pool, {rows_of(x), rows_of(lora.a), x.cols}, s, Write::Overwrite);
    gemm(pool, {rows_of(s), rows_of(lora.b), s.cols, lora.scale}, y, Write::Accumulate);
}

void lora_add_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, LoraView lora, ConstMatrix s,
                       Matrix ds, Matrix dx, LoraGradView grad) {
    FEDLLM_CHECK(dy.rows == x.rows && dy.cols == lora.b.rows && x.cols == lora.a.cols,
                 "lora_add_backward: shapes differ");
    adapter_gradients(pool, dy, x, lora, s, ds, grad);
    if (dx.data == nullptr) return;
    FEDLLM_CHECK(dx.rows == dy.rows && dx.cols == x.cols, "lora_add_backward: dx is (M,K)");
    gemm(pool, {rows_of(ds), columns_of(lora.a), ds.cols}, dx, Write::Accumulate);
}

}  // namespace fedllm::kernels
