#include "kernels/quant_matmul/fused.hpp"

namespace fedllm::kernels::cuda {

void nf4_matmul(const Stream& stream, Nf4Way way, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y,
                Write write) {
    const Nf4Tile tile = choose_tile({x.rows, w.n, w.k}, way, device_properties().multiprocessors);
    const auto start = way == Nf4Way::Wgmma ? nf4::launch_wgmma : nf4::launch_mma;
    start(stream, tile.tokens, x, w, y, write);
}

void nf4_matmul(const Stream& stream, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y, Write write) {
    const DeviceProperties& gpu = device_properties();
    const Nf4Way way = fused_way({x.rows, w.n, w.k}, {gpu.multiprocessors, gpu.compute_major == 9});
    nf4_matmul(stream, way, x, w, y, write);
}

}  // namespace fedllm::kernels::cuda
