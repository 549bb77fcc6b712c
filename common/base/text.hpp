// Words for people: sizes, times, and the nearest name to a misspelt one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/base/clock.hpp"

namespace fedllm {

std::string format_bytes(std::uint64_t bytes);  // "1.5 MiB"

// "12:03:11 UTC", and with the date in front where it is not that of `now`.
std::string format_utc(Timestamp time, Timestamp now);

// The candidate with the smallest edit distance, or "" if none is near enough to be a plausible slip.
std::string nearest_name(std::string_view word, std::span<const std::string_view> candidates);

// The length of the well-formed UTF-8 sequence (RFC 3629) at the front of `text`, or 0: broken, or empty.
std::size_t utf8_sequence_length(std::string_view text);

bool is_utf8(std::string_view text);

}  // namespace fedllm
