// Bits in bytes, lowest bit first; the last byte is filled up with zeros, which the reader checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fedllm::codec {

class BitWriter {
public:
    void put(std::uint32_t value, unsigned count) {  // count <= 32, value < 2^count
        pending_ |= std::uint64_t{value} << bits_;
        for (bits_ += count; bits_ >= 8; bits_ -= 8, pending_ >>= 8) {
            bytes_.push_back(static_cast<std::byte>(pending_ & 0xFF));
        }
    }
    // Elias gamma code of value + 1: floor(log2) zeros, then the number with its highest bit first to come.
    void put_gamma(std::uint32_t value) {
        unsigned width = 0;
        while (((value + 1) >> width) > 1) ++width;
        put(std::uint32_t{1} << width, width + 1);
        put((value + 1) & ((std::uint32_t{1} << width) - 1), width);
    }
    // Rice code: value >> shift ones and a zero, then the low bits.
    void put_rice(std::uint32_t value, unsigned shift) {
        std::uint32_t ones = value >> shift;
        for (; ones >= 16; ones -= 16) put(0xFFFF, 16);
        put((std::uint32_t{1} << ones) - 1, ones + 1);
        put(value & ((std::uint32_t{1} << shift) - 1), shift);
    }
    std::vector<std::byte> finish() && {
        if (bits_ > 0) bytes_.push_back(static_cast<std::byte>(pending_ & 0xFF));
        return std::move(bytes_);
    }

private:
    std::vector<std::byte> bytes_;
    std::uint64_t pending_ = 0;
    unsigned bits_ = 0;
};

// Reading past the end gives zeros and is remembered: ok() once at the end is enough for bounded loops.
class BitReader {
public:
    explicit BitReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    std::uint32_t get(unsigned count) {  // count <= 32
        while (bits_ < count) {
            const bool inside = next_ < bytes_.size();
            beyond_ |= !inside;
            pending_ |= std::uint64_t{inside ? static_cast<std::uint8_t>(bytes_[next_]) : 0u} << bits_;
            next_ += inside ? 1 : 0;
            bits_ += 8;
        }
        const auto value = static_cast<std::uint32_t>(pending_ & ((std::uint64_t{1} << count) - 1));
        pending_ >>= count;
        bits_ -= count;
        return value;
    }
    std::uint32_t get_gamma(unsigned width_max) {
        unsigned width = 0;
        while (width <= width_max && get(1) == 0) ++width;
        if (width > width_max) {
            beyond_ = true;
            return 0;
        }
        return ((std::uint32_t{1} << width) | get(width)) - 1;
    }
    // A value beyond value_max counts as bytes that are not there.
    std::uint32_t get_rice(unsigned shift, std::uint32_t value_max) {
        std::uint32_t ones = 0;
        while (get(1) != 0 && !beyond_) {
            if (++ones > (value_max >> shift)) beyond_ = true;
        }
        const std::uint32_t value = (ones << shift) | get(shift);
        if (value > value_max) beyond_ = true;
        return beyond_ ? 0 : value;
    }
    // Everything read was there, and what is left is less than a byte of zeros.
    bool finished() const { return !beyond_ && next_ == bytes_.size() && bits_ < 8 && pending_ == 0; }
    bool ok() const { return !beyond_; }

private:
    std::span<const std::byte> bytes_;
    std::size_t next_ = 0;
    std::uint64_t pending_ = 0;
    unsigned bits_ = 0;
    bool beyond_ = false;
};

}  // namespace fedllm::codec
