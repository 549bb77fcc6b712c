#include "client/cuda_engine/transfer.hpp"

#include <algorithm>
#include <cstring>

namespace fedllm::client::cuda_engine {
namespace {

using kernels::WeightType;
using kernels::WeightView;

constexpr std::size_t kRawBytes = std::size_t{64} << 20;  // of a plain weight at a time

std::size_t row_bytes(const WeightView& view) { return view.cols * (view.type == WeightType::F32 ? 4 : 2); }
std::size_t rows_at_once(const WeightView& view) {
    return std::clamp<std::size_t>(kRawBytes / row_bytes(view), 1, view.rows);
}

}  // namespace

std::size_t scale_count(const WeightView& weight) {
    if (weight.type == WeightType::Int8) return weight.rows;
    return (weight.rows * weight.cols + weight.block - 1) / weight.block;
}

std::size_t code_bytes(const WeightView& weight) {
    const std::size_t scales = is_plain(weight) ? 0 : scale_count(weight);
    return kernels::bytes_of(weight.type, weight.rows, weight.cols, weight.block) - scales * sizeof(float);
}

Transfer::Piece& Transfer::next_piece(std::size_t bytes) {
    Piece& piece = pieces_[next_];
    next_ = 1 - next_;
    if (piece.in_use) piece.copied.synchronize();
    if (piece.memory.size() < std::min(bytes, kPiece)) {
        piece.memory = kernels::cuda::PinnedBuffer<unsigned char>(std::min(bytes, kPiece));
    }
    piece.in_use = true;
    return piece;
}

void Transfer::to_device(void* device, const void* host, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPiece) {
        const std::size_t count = std::min(kPiece, bytes - at);
        Piece& piece = next_piece(bytes);
        std::memcpy(piece.memory.data(), static_cast<const unsigned char*>(host) + at, count);
        kernels::cuda::copy_to_device(*stream_, static_cast<unsigned char*>(device) + at, piece.memory.data(),
                                      count);
        piece.copied.record(*stream_);
    }
}

// One piece is unpacked while the next one is on its way.
void Transfer::to_host(void* host, const void* device, std::size_t bytes) {
    Piece* arriving = nullptr;
    std::size_t from = 0, count = 0;
    const auto unpack = [&] {
        if (arriving == nullptr) return;
        arriving->copied.synchronize();
        std::memcpy(static_cast<unsigned char*>(host) + from, arriving->memory.data(), count);
    };
    for (std::size_t at = 0; at < bytes; at += kPiece) {
        Piece& piece = next_piece(bytes);
        const std::size_t size = std::min(kPiece, bytes - at);
        kernels::cuda::copy_to_host(*stream_, piece.memory.data(),
                                    static_cast<const unsigned char*>(device) + at, size);
        piece.copied.record(*stream_);
        unpack();
        arriving = &piece;
        from = at;
        count = size;
    }
    unpack();
}

std::size_t Transfer::raw_bytes(const WeightView& host) {
    if (is_plain(host)) return round_up(rows_at_once(host) * row_bytes(host), 256);
    return round_up(code_bytes(host), 256) + round_up(scale_count(host) * sizeof(float), 256);
}

// Plain weights some rows at a time; blocks of the others may straddle rows, and they are small.
void Transfer::widen(const WeightView& host, DeviceMatrix to) {
    if (!is_plain(host)) return widen_whole(host, to);
    const std::size_t step = rows_at_once(host);
    for (std::size_t row = 0; row < host.rows; row += step) {
        WeightView some = host;
        some.rows = std::min(step, host.rows - row);
        some.data = static_cast<const unsigned char*>(host.data) + row * row_bytes(host);
        widen_whole(some, to.slice(row, some.rows));
    }
}

void Transfer::widen_whole(const WeightView& host, DeviceMatrix to) {
    if (raw_.size() < raw_bytes(host)) {
        stream_->synchronize();
        raw_ = {};
        raw_ = kernels::cuda::DeviceBuffer<unsigned char>(raw_bytes(host));
    }
    Carver carver(raw_.data());
    WeightView view = host;
    const std::size_t bytes = code_bytes(host);
    auto* const codes = carver.take<unsigned char>(bytes);
    to_device(codes, host.data, bytes);
    view.data = codes;
    if (!is_plain(host)) {
        auto* const scales = carver.take<float>(scale_count(host));
        to_device(scales, host.scales, scale_count(host) * sizeof(float));
        view.scales = scales;
    }
    kernels::cuda::dequantize(*stream_, view, to.slice(0, host.rows));
}

}  // namespace fedllm::client::cuda_engine
