// Fuzz targets as functions, so that one test replays seeds through all of them; each *_fuzz.cpp is also a
// libFuzzer entry point when compiled with FEDLLM_FUZZ_ENTRY and -fsanitize=fuzzer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedllm::fuzz {

int frame(const std::uint8_t* data, std::size_t size);
int messages(const std::uint8_t* data, std::size_t size);
int session(const std::uint8_t* data, std::size_t size);

}  // namespace fedllm::fuzz
