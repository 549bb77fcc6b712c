#include "kernels/quant_matmul/fused.hpp"

namespace fedllm::kernels::cuda {

void nf4_matmul(const Stream& stream, Nf4Way way, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y,
                Write write) {
    const Nf4Tile tile = choose_tile({x.rows, w.n, w.k}, way, device_properties().multiprocessors);
    nf4::launch_mma(stream, tile.tokens, x, w, y, write);
}

void nf4_matmul(const Stream& stream, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y, Write write) {
    nf4_matmul(stream, Nf4Way::Mma, x, w, y, write);
}

}  // namespace fedllm::kernels::cuda
