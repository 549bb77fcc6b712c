// The layouts that the fuzz target decodes into.
#pragma once

#include "common/codec/layout.hpp"

namespace fedllm::fuzz {

inline codec::Layout codec_layout(unsigned choice) {
    switch (choice) {
        case 0: return {{{100, 0}}, 100, 1};
        case 1: return {{{33, 0}, {64, 1}, {31, 0}, {72, 2}}, 200, 3};
        case 2: return {{{131'000, 0}, {500, 1}}, 131'500, 2};  // a run across two segments
        default: return {};
    }
}

}  // namespace fedllm::fuzz
