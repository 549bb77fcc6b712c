// How the values of a job fall into groups that share their statistics: A and B of each projection apart, all
// layers together. Both sides derive it from the job's manifest, so it never travels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "common/tensor/param_set.hpp"

namespace fedllm::codec {

struct Layout {
    struct Run {  // consecutive values of one group
        std::uint64_t elements = 0;
        std::uint32_t group = 0;
        bool operator==(const Run&) const = default;
    };
    std::vector<Run> runs;  // in manifest order; neighbours differ in their group
    std::uint64_t elements = 0;
    std::uint32_t groups = 0;  // numbered from 0 in order of appearance
    bool operator==(const Layout&) const = default;
};

// Tensors whose names differ only in numbers share a group, up to kGroupsMax; what comes later joins the
// last.
Layout layout_of(const tensor::Manifest& manifest);

constexpr std::uint32_t kGroupsMax = 256;

// Walks through the runs of a layout in pieces. Borrows the layout's runs.
class Pieces {
public:
    explicit Pieces(const Layout& layout) : runs_(layout.runs) {}

    // The rest of the current run, but at most `most` (> 0) elements. Call it only where elements are left.
    Layout::Run next(std::uint64_t most) {
        while (taken_ == runs_[run_].elements) {
            ++run_;
            taken_ = 0;
        }
        const std::uint64_t count = std::min(most, runs_[run_].elements - taken_);
        taken_ += count;
        return {count, runs_[run_].group};
    }

private:
    std::span<const Layout::Run> runs_;
    std::size_t run_ = 0;
    std::uint64_t taken_ = 0;  // of the current run
};

}  // namespace fedllm::codec
