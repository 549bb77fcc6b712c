// Counter-based random numbers (Philox4x32-10; Salmon et al., SC 2011, "Parallel random numbers: as easy as
// 1, 2, 3"): the n-th number of a stream is a pure function of (key, n), so every machine, thread count and
// device draws the same. NOT secret: secrets come from crypto::SecureRng.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fedllm {

// One block: four 32-bit words from a 128-bit counter under a 64-bit key.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter[0];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter[2];
        counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
                   static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1],
                   static_cast<std::uint32_t>(p0)};
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return counter;
}

// 64-bit FNV-1a: turns names ("init/layers.0.q_proj") into stream numbers. Not cryptographic.
constexpr std::uint64_t stream_of(std::string_view text) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return hash;
}

// A reproducible stream keyed by (seed, stream). Value type; not for use from two threads at once.
class Rng {
public:
    Rng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
    Rng(std::uint64_t seed, std::string_view stream) : Rng(seed, stream_of(stream)) {}

    std::uint32_t next_u32();
    std::uint64_t next_u64();
    float uniform();                           // [0, 1), 24 bits
    float uniform(float low, float high);      // [low, high)
    float normal();                            // mean 0, variance 1 (Box-Muller)
    std::uint64_t below(std::uint64_t bound);  // [0, bound), unbiased; bound > 0

private:
    std::uint64_t seed_;
    std::uint64_t stream_;
    std::uint64_t block_ = 0;
    std::array<std::uint32_t, 4> words_{};
    unsigned used_ = 4;
};

}  // namespace fedllm
