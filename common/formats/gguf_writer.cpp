#include "common/formats/gguf_writer.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

#include "common/tensor/dtype.hpp"

namespace fedllm::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

constexpr std::uint32_t kVersion = 3;
constexpr std::size_t kAlignment = 32;
constexpr std::size_t kNameBytesMax = 64;

std::uint64_t padded(std::uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

class Writer {
public:
    template <class Number>
    void number(Number value) {
        char bytes[sizeof value];
        std::memcpy(bytes, &value, sizeof value);
        out_.append(bytes, sizeof value);
    }
    void text(std::string_view value) {
        number(std::uint64_t{value.size()});
        out_ += value;
    }
    void value(const GgufValue& value) {
        constexpr std::uint32_t kTypes[]{4, 6, 8};  // u32, f32, text, in the order of the variant
        number(kTypes[value.index()]);
        if (const auto* whole = std::get_if<std::uint32_t>(&value)) number(*whole);
        if (const auto* real = std::get_if<float>(&value)) number(*real);
        if (const auto* words = std::get_if<std::string>(&value)) text(*words);
    }
    void bytes(std::span<const std::byte> data) {
        out_.append(reinterpret_cast<const char*>(data.data()), data.size());
        pad();
    }
    void pad() { out_.resize(padded(out_.size()), '\0'); }

    const std::string& out() const { return out_; }

private:
    std::string out_;
};

}  // namespace

Result<std::vector<std::byte>> gguf_bytes(std::span<const float> floats, GgufType type,
                                          const std::string& name) {
    if (type == GgufType::F32) {
        const auto bytes = std::as_bytes(floats);
        return std::vector<std::byte>(bytes.begin(), bytes.end());
    }
    std::vector<std::byte> bytes(floats.size() * 2);
    for (std::size_t i = 0; i < floats.size(); ++i) {
        const std::uint16_t half = tensor::f32_to_f16(floats[i]);
        if (!std::isfinite(tensor::f16_to_f32(half))) {
            return make_error(Errc::NotFinite, "tensor " + name + ": the value " + std::to_string(floats[i]) +
                                                   " is beyond f16; write f32 instead");
        }
        std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
    return bytes;
}

Result<void> write_gguf(const Path& path, std::span<const std::pair<std::string, GgufValue>> keys,
                        std::span<const GgufTensor> tensors) {
    Writer writer;
    writer.number(std::uint32_t{0x46554747});  // "GGUF"
    writer.number(kVersion);
    writer.number(std::uint64_t{tensors.size()});
    writer.number(std::uint64_t{keys.size()});
    for (const auto& [name, value] : keys) {
        writer.text(name);
        writer.value(value);
    }
    std::uint64_t offset = 0;
    for (const GgufTensor& tensor : tensors) {
        if (tensor.name.size() >= kNameBytesMax) {
            return make_error(Errc::InvalidArgument, path.string() + ": the tensor name " + tensor.name +
                                                         " is longer than GGUF readers take");
        }
        writer.text(tensor.name);
        writer.number(static_cast<std::uint32_t>(tensor.shape.size()));
        for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) writer.number(*size);
        writer.number(static_cast<std::uint32_t>(tensor.type));
        writer.number(offset);
        offset += padded(tensor.bytes.size());
    }
    writer.pad();
    for (const GgufTensor& tensor : tensors) writer.bytes(tensor.bytes);
    return write_file_atomically(path, writer.out());
}

}  // namespace fedllm::formats
