#include "common/net/backoff.hpp"

#include <algorithm>

namespace fedllm::net {

Duration Backoff::next(Rng& rng) {
    const Duration lowest = options_.first / 2;
    const auto spread = static_cast<std::uint64_t>((ceiling_ - lowest).count());
    const Duration wait = lowest + Duration(rng.below(spread + 1));
    ceiling_ = std::min(ceiling_ * 2, options_.longest);
    return wait;
}

}  // namespace fedllm::net
