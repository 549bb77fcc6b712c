// Any bytes as a safetensors file: refused, or every promise of the reader holds.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/formats/safetensors.hpp"

using namespace fedllm;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const int fd = ::memfd_create("fuzz", MFD_CLOEXEC);
    FEDLLM_CHECK(fd >= 0 && ::write(fd, data, size) == static_cast<ssize_t>(size), "a file in memory");
    {
        const auto file = formats::SafetensorsFile::open("/proc/self/fd/" + std::to_string(fd));
        if (file) {
            std::size_t total = 0;
            for (const auto& tensor : file->tensors()) {
                FEDLLM_CHECK(file->find(tensor.name) == &tensor, "names are unique");
                FEDLLM_CHECK(!formats::describe(tensor).empty());
                std::uint64_t elements = 1;
                for (const auto dimension : tensor.shape) elements *= dimension;
                FEDLLM_CHECK(elements == tensor.elements(), "shape and size agree");
                total += tensor.bytes.size();
                // Touches every byte: a span outside the map would be caught here.
                (void)formats::read_floats(tensor).has_value();
            }
            FEDLLM_CHECK(total <= size, "no byte is used twice");
        }
    }
    ::close(fd);
    return 0;
}
