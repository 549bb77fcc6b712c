// Any bytes as a job, which operators send and servers pass on to their clients: refused in words, or printed
// as a job that is read as the same again.
#include <cstdint>
#include <string>

#include "common/job/job_spec.hpp"

using namespace fedllm;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto spec = job::parse_job(std::string(reinterpret_cast<const char*>(data), size), "fuzz");
    if (!spec) {
        FEDLLM_CHECK(spec.error().message.starts_with("fuzz"), "the file is named");
        return 0;
    }
    const auto again = job::parse_job(job::print_job(*spec), "printed");
    FEDLLM_CHECK(again && job::print_job(*again) == job::print_job(*spec), "the same again");
    return 0;
}
