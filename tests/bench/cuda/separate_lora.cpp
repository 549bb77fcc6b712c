#include "tests/bench/cuda/separate_lora.hpp"

#include "client/model/manifests.hpp"

namespace fedllm::bench {
namespace {

struct Apart {
    Apart(const cuda::Stream& stream, std::size_t m_, std::size_t n_, std::size_t k_, std::size_t r_)
        : m(m_),
          n(n_),
          k(k_),
          r(r_),
          w(random_bf16(stream, n * k)),
          a(random_bf16(stream, r * k)),
          b(random_bf16(stream, n * r)),
          x(random_bf16(stream, m * k)),
          y(random_bf16(stream, m * n)),
          s(random_bf16(stream, m * r)),
          ds(random_bf16(stream, m * r)),
          dx(random_bf16(stream, m * k)),
          da(random_f32(stream, r * k)),
          db(random_f32(stream, n * r)) {}

    // Of one backward pass: dy is where y was.
    void forward(const cuda::Stream& stream, cuda::Blas& blas) const {
        const auto vx = view(x, m, k);
        blas.gemm(stream,
                  {m, n, k, cuda::operand(vx), cuda::operand(view(w, n, k), true), nullptr, 0, y.data(), n});
        blas.gemm(stream,
                  {m, r, k, cuda::operand(vx), cuda::operand(view(a, r, k), true), nullptr, 0, s.data(), r});
        blas.gemm(stream, {m, n, r, cuda::operand(view(s, m, r)), cuda::operand(view(b, n, r), true),
                           y.data(), n, y.data(), n, cuda::Element::BF16, kScale, 1.0f});
    }
    void backward(const cuda::Stream& stream, cuda::Blas& blas) const {
        const auto dy = view(y, m, n);
        const auto vds = view(ds, m, r);
        blas.gemm(stream,
                  {m, k, n, cuda::operand(dy), cuda::operand(view(w, n, k)), nullptr, 0, dx.data(), k});
        blas.gemm(stream, {m, r, n, cuda::operand(dy), cuda::operand(view(b, n, r)), nullptr, 0, ds.data(), r,
                           cuda::Element::BF16, kScale});
        blas.gemm(stream, {m, k, r, cuda::operand(vds), cuda::operand(view(a, r, k)), dx.data(), k, dx.data(),
                           k, cuda::Element::BF16, 1.0f, 1.0f});
        blas.gemm(stream, {r, k, m, cuda::operand(vds, true), cuda::operand(view(x, m, k)), nullptr, 0,
                           da.data(), k, cuda::Element::F32});
        blas.gemm(stream, {n, r, m, cuda::operand(dy, true), cuda::operand(view(s, m, r)), nullptr, 0,
                           db.data(), r, cuda::Element::F32, kScale});
    }

    static constexpr float kScale = 2.0f;
    std::size_t m, n, k, r;
    cuda::DeviceBuffer<cuda::BF16> w, a, b, x, y, s, ds, dx;
    cuda::DeviceBuffer<float> da, db;
};

// A quarter of the rows at a time: the logits of all would not fit beside the rest.
double head_seconds(const Meter& meter, const StepModel& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.step_tokens() / 4, v = model.config.vocab, c = model.config.hidden;
    cuda::Blas blas;
    const auto w = random_bf16(stream, v * c), x = random_bf16(stream, m * c),
               logits = random_bf16(stream, m * v);
    return 4 * meter.seconds([&] {
        blas.gemm(stream, {m, v, c, cuda::operand(view(x, m, c)), cuda::operand(view(w, v, c), true), nullptr,
                           0, logits.data(), v});
        blas.gemm(stream, {m, c, v, cuda::operand(view(logits, m, v)), cuda::operand(view(w, v, c)), nullptr,
                           0, x.data(), c});
    });
}

}  // namespace

double separate_products_seconds(const Meter& meter, const StepModel& model) {
    const cuda::Stream& stream = meter.stream();
    double layer = 0;
    {
        cuda::Blas blas;
        std::vector<Apart> parts;
        for (const auto& p : client::model::projections(model.config))
            parts.emplace_back(stream, model.step_tokens(), p.out, p.in, model.lora.rank);
        layer = meter.seconds([&] {
            for (const Apart& part : parts) part.forward(stream, blas);
            for (auto part = parts.rbegin(); part != parts.rend(); ++part) part->backward(stream, blas);
        });
    }
    return static_cast<double>(model.config.layers) * layer + head_seconds(meter, model);
}

}  // namespace fedllm::bench
