// CRC-32C (Castagnoli: reflected polynomial 0x82F63B78, initial and final complement), as in iSCSI (RFC
// 3720). It finds broken disks and our own mistakes; it is no protection against an adversary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fedllm::codec {

std::uint32_t crc32c(std::span<const std::byte> bytes);

}  // namespace fedllm::codec
