// For processors that are not x86-64: linked instead of tile_vnni.cpp.
#include "kernels/int8_matmul/tile.hpp"

namespace fedllm::kernels {

Int8Tile vnni_tile() { return nullptr; }

}  // namespace fedllm::kernels
