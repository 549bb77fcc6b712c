// Fuzz targets as functions, so that the tests replay seeds through them; each *_fuzz.cpp is also a libFuzzer
// entry point when compiled with its FEDLLM_FUZZ_* macro and -fsanitize=fuzzer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedllm::fuzz {

int frame(const std::uint8_t* data, std::size_t size);
int messages(const std::uint8_t* data, std::size_t size);

}  // namespace fedllm::fuzz
