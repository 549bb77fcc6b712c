#include "kernels/embedding/op_cuda.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

// Everything here is copied, rounded once or added in a known order: bits are compared.
const auto kExactly = [](std::size_t) { return 0.0; };

std::string sizes(std::size_t a, std::size_t b, std::size_t c) {
    return std::to_string(a) + " of " + std::to_string(b) + "x" + std::to_string(c);
}
// Most repeat; the last of the vocabulary is seen late, and twice.
std::vector<std::int32_t> tokens_of(std::size_t count, std::size_t vocabulary) {
    std::vector<std::int32_t> tokens(count);
    const std::size_t often = vocabulary > 1 ? vocabulary - 1 : 1;
    for (std::size_t m = 0; m < count; ++m) tokens[m] = static_cast<std::int32_t>((m * m * 31 + 5) % often);
    tokens[count * 3 / 4] = tokens[count - 1] = static_cast<std::int32_t>(vocabulary - 1);
    return tokens;
}

template <class T>
T stored(double value);
template <>
float stored<float>(double value) {
    return static_cast<float>(value) * 1.001f;  // not a bf16
}
template <>
BF16 stored<BF16>(double value) {
    return narrow(static_cast<float>(value));
}
float widened(float value) { return value; }
float widened(BF16 value) { return widen(value); }

template <class T>
void forward_case(Harness& harness, std::size_t rows, std::size_t vocabulary, std::size_t cols, Write write) {
    const bool f32 = sizeof(T) == sizeof(float);
    harness.begin("embedding_forward " + sizes(rows, vocabulary, cols) + (f32 ? " f32" : " bf16") +
                  (write == Write::Accumulate ? " +=" : " ="));
    const Stream stream;
    const TestMatrix values = random_matrix(stream, vocabulary, cols, 1, 2.0);
    std::vector<T> table;
    for (const double value : values.values) table.push_back(stored<T>(value));
    const std::vector<std::int32_t> tokens = tokens_of(rows, vocabulary);
    const TestMatrix out = write == Write::Accumulate ? random_matrix(stream, rows, cols, 2, 3.0, 8)
                                                      : empty_matrix(stream, rows, cols, 8);
    const auto device_table = to_device<T>(stream, table);
    const auto device_tokens = to_device<std::int32_t>(stream, tokens);
    const WeightView view{device_table.data(), f32 ? WeightType::F32 : WeightType::BF16, vocabulary, cols};
    embedding_forward(stream, device_tokens.data(), view, out.view(), write);
    std::vector<double> want(rows * cols);
    for (std::size_t i = 0; i < want.size(); ++i) {
        float value = widened(table[static_cast<std::size_t>(tokens[i / cols]) * cols + i % cols]);
        if (write == Write::Accumulate) value += static_cast<float>(out.values[i]);
        want[i] = widen(narrow(value));
    }
    harness.close(values_of(harness, stream, out), want, kExactly, "out");
}

// `gap` more columns of the table's pitch.
void backward_case(Harness& harness, std::size_t rows, std::size_t vocabulary, std::size_t cols,
                   std::size_t gap) {
    harness.begin("embedding_backward " + sizes(rows, vocabulary, cols) + " + " + std::to_string(gap));
    const Stream stream;
    const TestMatrix dout = random_matrix(stream, rows, cols, 1, 2.0, 8);
    const std::vector<std::int32_t> tokens = tokens_of(rows, vocabulary);
    const std::size_t pitch = cols + gap;
    std::vector<float> dtable(vocabulary * pitch);
    for (std::size_t i = 0; i < dtable.size(); ++i) dtable[i] = static_cast<float>(i % 101) / 7.0f;
    const auto device_dtable = to_device<float>(stream, dtable);
    const auto device_tokens = to_device<std::int32_t>(stream, tokens);
    embedding_backward(stream, device_tokens.data(), dout.view(),
                       {device_dtable.data(), vocabulary, cols, pitch});
    for (std::size_t i = 0; i < rows * cols; ++i) {
        float& sum = dtable[static_cast<std::size_t>(tokens[i / cols]) * pitch + i % cols];
        sum += static_cast<float>(dout.values[i]);
    }
    const std::vector<float> got = to_host(stream, device_dtable.data(), dtable.size());
    harness.close(got, std::vector<double>(dtable.begin(), dtable.end()), kExactly, "dtable");
}

// Every third row is -1; the others name places backwards.
std::vector<std::int32_t> places_of(std::size_t count, std::size_t range) {
    std::vector<std::int32_t> places(count);
    for (std::size_t i = 0; i < count; ++i)
        places[i] = i % 3 == 1 ? -1 : static_cast<std::int32_t>(range - 1 - i % range);
    return places;
}

void gather_case(Harness& harness, std::size_t rows, std::size_t range, std::size_t cols) {
    harness.begin("gather_rows " + sizes(rows, range, cols));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, range, cols, 1, 2.0, 8);
    const TestMatrix y = empty_matrix(stream, rows, cols, 16);
    const std::vector<std::int32_t> places = places_of(rows, range);
    const auto device_places = to_device<std::int32_t>(stream, places);
    gather_rows(stream, x.view(), device_places.data(), y.view());
    std::vector<double> want(rows * cols);
    for (std::size_t i = 0; i < want.size(); ++i) {
        const std::int32_t place = places[i / cols];
        want[i] = place < 0 ? 0.0 : x.values[static_cast<std::size_t>(place) * cols + i % cols];
    }
    harness.close(values_of(harness, stream, y), want, kExactly, "y");
}

void scatter_case(Harness& harness, std::size_t rows, std::size_t range, std::size_t cols) {
    harness.begin("scatter_rows " + sizes(rows, range, cols));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, rows, cols, 1, 2.0, 8);
    const TestMatrix y = random_matrix(stream, range, cols, 2, 2.0, 16);
    const std::vector<std::int32_t> places = places_of(rows, range);
    const auto device_places = to_device<std::int32_t>(stream, places);
    scatter_rows(stream, x.view(), device_places.data(), y.view());
    std::vector<double> want = y.values;
    for (std::size_t i = 0; i < rows * cols; ++i) {
        const std::int32_t place = places[i / cols];
        if (place >= 0) want[static_cast<std::size_t>(place) * cols + i % cols] = x.values[i];
    }
    harness.close(values_of(harness, stream, y), want, kExactly, "y");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto write : {fedllm::kernels::Write::Overwrite, fedllm::kernels::Write::Accumulate}) {
            for (const std::size_t cols : {1, 8, 13, 192}) {
                forward_case<float>(harness, 29, 17, cols, write);
                forward_case<fedllm::kernels::cuda::BF16>(harness, 29, 17, cols, write);
            }
        }
        backward_case(harness, 1, 1, 1, 0);
        backward_case(harness, 40, 11, 13, 0);  // rows of the table are not aligned
        backward_case(harness, 40, 11, 13, 3);
        backward_case(harness, 700, 260, 24, 0);  // more tokens than threads
        backward_case(harness, 3, 5, 2056, 4);    // many threads
        backward_case(harness, 5, 2, 4100, 0);    // two turns of the columns
        for (const std::size_t cols : {1, 24, 77}) {
            gather_case(harness, 50, 9, cols);
            gather_case(harness, 5, 90, cols);
            scatter_case(harness, 5, 90, cols);
            scatter_case(harness, 40, 40, cols);
        }
    });
}
