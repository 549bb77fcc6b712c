// Which way a product with an NF4 weight goes: by a panel of bf16 and a dense product, or by one of the fused
// kernels; and with which tile. Pure: no GPU is asked, times come from the caller.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>

namespace fedllm::kernels::cuda {

enum class Nf4Way : std::uint8_t {
    Panel,  // dequantize(), then Blas
    Mma,    // fused, mma.sync
    Wgmma,  // fused, Hopper's wgmma
};
inline const char* name_of(Nf4Way way) {
    constexpr std::array kNames{"panel GEMM", "fused mma.sync", "fused wgmma"};
    return kNames[static_cast<std::size_t>(way)];
}

struct Nf4Gpu {
    unsigned multiprocessors = 1;
    bool has_wgmma = false;
};
struct Nf4Shape {
    std::size_t m = 0, n = 0, k = 0;
};
struct Nf4Tile {
    Nf4Way way = Nf4Way::Mma;
    unsigned tokens = 0, rows = 0;
};
inline constexpr std::array kMmaTiles{
    Nf4Tile{Nf4Way::Mma, 16, 32},
    Nf4Tile{Nf4Way::Mma, 32, 64},
    Nf4Tile{Nf4Way::Mma, 64, 128},
    Nf4Tile{Nf4Way::Mma, 128, 128},
};
inline constexpr std::array kWgmmaTiles{
    Nf4Tile{Nf4Way::Wgmma, 64, 128},
    Nf4Tile{Nf4Way::Wgmma, 128, 128},
    Nf4Tile{Nf4Way::Wgmma, 256, 128},
};

// Clocks that the grid of a tile takes per block of K, from rates of a multiprocessor: codes widened (limited
// by look-ups and issue) and bf16 products. wgmma runs beside the widening, mma.sync in its turn.
inline double estimated_clocks(const Nf4Shape& shape, const Nf4Tile& tile, unsigned multiprocessors) {
    constexpr double kCodesPerClock = 28, kMmaPerClock = 1024, kWgmmaPerClock = 2048, kBarrier = 60;
    const double codes = 64.0 * tile.rows;
    const double widening = codes / kCodesPerClock;
    const double products = codes * tile.tokens / (tile.way == Nf4Way::Wgmma ? kWgmmaPerClock : kMmaPerClock);
    const double tiles = static_cast<double>(((shape.n + tile.rows - 1) / tile.rows) *
                                             ((shape.m + tile.tokens - 1) / tile.tokens));
    const auto waves = static_cast<double>(static_cast<std::size_t>(tiles + multiprocessors - 1) /
                                           (multiprocessors == 0 ? 1 : multiprocessors));
    const double step =
        tile.way == Nf4Way::Wgmma ? (widening > products ? widening : products) : widening + products;
    return waves * (step + kBarrier);
}

// The tile of a fused way; of tiles that are equally fast the one with fewer tokens.
inline Nf4Tile choose_tile(const Nf4Shape& shape, Nf4Way way, unsigned multiprocessors) {
    Nf4Tile best;
    double least = std::numeric_limits<double>::infinity();
    auto consider = [&](const auto& tiles) {
        for (const Nf4Tile& tile : tiles) {
            const double clocks = estimated_clocks(shape, tile, multiprocessors);
            if (clocks < least) least = clocks, best = tile;
        }
    };
    way == Nf4Way::Wgmma ? consider(kWgmmaTiles) : consider(kMmaTiles);
    return best;
}

// The fused way that is faster by the estimate: few tokens do not fill wgmma's tiles.
inline Nf4Way fused_way(const Nf4Shape& shape, const Nf4Gpu& gpu) {
    if (!gpu.has_wgmma) return Nf4Way::Mma;
    auto clocks = [&](Nf4Way way) {
        return estimated_clocks(shape, choose_tile(shape, way, gpu.multiprocessors), gpu.multiprocessors);
    };
    return clocks(Nf4Way::Wgmma) < clocks(Nf4Way::Mma) ? Nf4Way::Wgmma : Nf4Way::Mma;
}

// What was measured, and what follows. Lifecycle: a value. Concurrency: measure() by one, then read by many.
class Nf4Plan {
public:
    explicit Nf4Plan(Nf4Gpu gpu) : gpu_(gpu) {}

    // Times the ways of w (n,k) at growing numbers of rows up to m_max: clock(way, m) is milliseconds of one
    // call, best of several, between events. Anything that is not a positive number says "not this way".
    template <class Clock>
    void measure(std::size_t n, std::size_t k, std::size_t m_max, Clock&& clock) {
        Row& row = table_[{n, k}];
        row.clear();
        for (std::size_t m = kRowsMin;; m *= 2) {
            const std::size_t rows = m < m_max ? m : m_max;
            Times& times = row[rows];
            for (const Nf4Way way : {Nf4Way::Panel, Nf4Way::Mma, Nf4Way::Wgmma}) {
                if (way == Nf4Way::Wgmma && !gpu_.has_wgmma) continue;
                const double taken = clock(way, rows);
                if (taken > 0) times.milliseconds[static_cast<std::size_t>(way)] = taken;
            }
            if (rows == m_max) return;
        }
    }

    // By the next larger number of rows that was measured, else the largest; a weight that was not: fused up
    // to half a thousand rows, where reading the panel costs more than multiplying by it.
    Nf4Way choose(const Nf4Shape& shape) const {
        const auto found = table_.find({shape.n, shape.k});
        if (found == table_.end() || found->second.empty())
            return shape.m <= kRowsUnmeasured ? fused_way(shape, gpu_) : Nf4Way::Panel;
        const auto at = found->second.lower_bound(shape.m);
        return (at == found->second.end() ? std::prev(at) : at)->second.fastest();
    }

    // A line per weight: "4096x14336: fused mma.sync to 32 rows (0.021 ms), panel GEMM beyond (0.105 ms at
    // 4096)".
    std::string describe() const {
        std::string text;
        for (const auto& [weight, row] : table_) {
            text += std::to_string(weight.first) + "x" + std::to_string(weight.second) + ":";
            for (auto at = row.begin(); at != row.end(); ++at) {
                const auto next = std::next(at);
                const Nf4Way way = at->second.fastest();
                if (next != row.end() && next->second.fastest() == way) continue;
                char part[96];
                std::snprintf(part, sizeof part, " %s %s %zu rows (%.3g ms)%s", name_of(way),
                              next == row.end() ? "beyond, measured to" : "to", at->first, at->second.of(way),
                              next == row.end() ? "\n" : ",");
                text += part;
            }
        }
        return text;
    }

private:
    static constexpr std::size_t kRowsMin = 8, kRowsUnmeasured = 512;
    static constexpr double kNever = std::numeric_limits<double>::infinity();

    struct Times {
        std::array<double, 3> milliseconds{kNever, kNever, kNever};
        double of(Nf4Way way) const { return milliseconds[static_cast<std::size_t>(way)]; }
        Nf4Way fastest() const {
            Nf4Way best = Nf4Way::Panel;
            for (const Nf4Way way : {Nf4Way::Mma, Nf4Way::Wgmma}) {
                if (of(way) < of(best)) best = way;
            }
            return best;
        }
    };
    using Row = std::map<std::size_t, Times>;  // by number of rows

    Nf4Gpu gpu_;
    std::map<std::pair<std::size_t, std::size_t>, Row> table_;  // by (n, k)
};

}  // namespace fedllm::kernels::cuda
