// How the values of a job fall into groups that share their statistics: A and B of each projection apart, all
// layers together. Both sides derive it from the job's manifest, so it never travels.
#pragma once

#include <cstdint>
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

}  // namespace fedllm::codec
