// Transfer: host memory of any kind to the GPU and back, through two pinned pieces that are filled in turn.
#pragma once

#include <array>
#include <cstddef>

#include "client/cuda_engine/memory.hpp"
#include "kernels/quantize/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

// Scales of a quantised weight.
std::size_t scale_count(const kernels::WeightView& weight);
// Its codes, or the values of a plain one.
std::size_t code_bytes(const kernels::WeightView& weight);
constexpr bool is_plain(const kernels::WeightView& weight) {
    return weight.type == kernels::WeightType::F32 || weight.type == kernels::WeightType::BF16;
}

// Lifecycle: `stream` must outlive it. Concurrency: one call at a time.
class Transfer {
public:
    explicit Transfer(const kernels::cuda::Stream& stream) : stream_(&stream) {}

    // In order with the stream's work. When it returns, `host` has been read and may change.
    void to_device(void* device, const void* host, std::size_t bytes);
    // When it returns, `host` is written.
    void to_host(void* host, const void* device, std::size_t bytes);

    void clear(void* device, std::size_t bytes) { kernels::cuda::fill_bytes(*stream_, device, 0, bytes); }

    // to = the values of a weight that lies in the host's memory.
    void widen(const kernels::WeightView& host, DeviceMatrix to);
    // Memory that widen() holds on to between calls goes back.
    void release() { raw_ = {}; }
    // The most of it.
    static std::size_t raw_bytes(const kernels::WeightView& host);

private:
    static constexpr std::size_t kPiece = std::size_t{8} << 20;

    struct Piece {
        kernels::cuda::PinnedBuffer<unsigned char> memory;
        kernels::cuda::Event copied;
        bool in_use = false;
    };
    Piece& next_piece(std::size_t bytes);
    void widen_whole(const kernels::WeightView& host, DeviceMatrix to);

    const kernels::cuda::Stream* stream_;
    std::array<Piece, 2> pieces_;
    std::size_t next_ = 0;
    kernels::cuda::DeviceBuffer<unsigned char> raw_;
};

}  // namespace fedllm::client::cuda_engine
