#include "common/formats/safetensors.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "tests/support/safetensors_bytes.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::formats {
namespace {

using tensor::DType;
using test::safetensors_bytes;
using test::TempDir;
using test::write_bytes;

// A JSON entry, so that the cases below show only what is wrong with them.
std::string entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}";
}

std::string object(const std::string& entries) { return std::string("{").append(entries).append("}"); }

struct Broken {
    std::string label;
    std::string bytes;
    Errc code;
    std::string words;  // found in the message
};

std::vector<Broken> broken_files() {
    const std::string d8(8, 'x');
    const std::string good = entry("a", "[2]", "[0,8]");
    const auto with = [&](const std::string& entries) { return safetensors_bytes(object(entries), d8); };
    const std::string half = "9223372036854775808";
    std::string many = entry("t0", "[0]", "[0,0]");
    for (std::size_t i = 1; i <= kTensorsMax + 1; ++i) {
        many.append(",").append(entry(std::string("t").append(std::to_string(i)), "[0]", "[0,0]"));
    }
    const auto invalid = Errc::InvalidFile;
    return {
        {"empty file", "", invalid, "too few"},
        {"seven bytes", std::string(7, '\0'), invalid, "too few"},
        {"header of length 0", safetensors_bytes(0, "", ""), invalid, "start with '{'"},
        {"header beyond the file", safetensors_bytes(100, "{}", ""), invalid, "cut short"},
        {"header beyond the limit", safetensors_bytes(kHeaderBytesMax + 1, "{}", ""), Errc::TooLarge,
         "16777216"},
        {"length that wraps", safetensors_bytes(~std::uint64_t{0}, "{}", ""), Errc::TooLarge, "header"},
        {"header is a list", safetensors_bytes("[]", ""), invalid, "start with '{'"},
        {"space before the header", safetensors_bytes(" {}", ""), invalid, "start with '{'"},
        {"header is not JSON", safetensors_bytes("{\"a\":}", ""), invalid, "column"},
        {"NUL after the header", safetensors_bytes(std::string("{}\0", 3), ""), invalid, "NUL"},
        {"header is not UTF-8", safetensors_bytes("{\"\xff\":1}", ""), invalid, "UTF-8"},
        {"nested without end", safetensors_bytes("{\"a\":" + std::string(100'000, '['), ""), invalid,
         "nested"},
        {"a name twice", with(good + "," + good), invalid, "'a' appears twice"},
        {"a key twice", with(R"("a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
         invalid, "'dtype' appears twice"},
        {"too many tensors", safetensors_bytes(object(many), ""), Errc::TooLarge, "100000"},
        {"entry is a number", with("\"a\":1"), invalid, "not a JSON object"},
        {"no dtype", with(R"("a":{"shape":[2],"data_offsets":[0,8]})"), invalid, "'dtype' is missing"},
        {"no shape", with(R"("a":{"dtype":"F32","data_offsets":[0,8]})"), invalid, "'shape' is missing"},
        {"no offsets", with(R"("a":{"dtype":"F32","shape":[2]})"), invalid, "'data_offsets' is missing"},
        {"unknown key", with(R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), invalid,
         "besides"},
        {"dtype is a number", with(R"("a":{"dtype":1,"shape":[2],"data_offsets":[0,8]})"), invalid,
         "'dtype'"},
        {"unknown dtype", with(entry("a", "[8]", "[0,8]", "F8_E4M3")), Errc::Unsupported, "F8_E4M3"},
        {"shape is text", with(entry("a", "\"2\"", "[0,8]")), invalid, "'shape'"},
        {"negative dimension", with(entry("a", "[-2]", "[0,8]")), invalid, "'shape'"},
        {"fractional dimension", with(entry("a", "[2.0]", "[0,8]")), invalid, "'shape'"},
        {"dimension beyond 64 bits", with(entry("a", "[18446744073709551616]", "[0,8]")), invalid, "'shape'"},
        {"nine dimensions", with(entry("a", "[1,1,1,1,1,1,1,1,2]", "[0,8]")), invalid, "at most 8"},
        {"product wraps to 8 bytes", with(entry("a", "[" + half + ",2,2]", "[0,8]")), invalid, "overflows"},
        {"bytes wrap", with(entry("a", "[4611686018427387906]", "[0,8]")), invalid, "overflows"},
        {"one offset", with(entry("a", "[2]", "[8]")), invalid, "'data_offsets'"},
        {"three offsets", with(entry("a", "[2]", "[0,8,8]")), invalid, "'data_offsets'"},
        {"offsets swapped", with(entry("a", "[2]", "[8,0]")), invalid, "'data_offsets'"},
        {"end beyond the data", with(entry("a", "[4]", "[0,16]")), invalid, "cut short"},
        {"offsets near 2^64", with(entry("a", "[2]", "[18446744073709551608,18446744073709551615]")), invalid,
         "'data_offsets'"},
        {"size is not shape's", with(entry("a", "[3]", "[0,8]")), invalid, "need 12"},
        {"overlap", with(good + "," + entry("b", "[1]", "[4,8]")), invalid, "overlaps"},
        {"the same bytes twice", with(good + "," + entry("b", "[2]", "[0,8]")), invalid, "overlaps"},
        {"hole at the start", with(entry("a", "[1]", "[4,8]")), invalid, "unused bytes"},
        {"hole between",
         safetensors_bytes(object(entry("a", "[1]", "[0,4]") + "," + entry("b", "[1]", "[8,12]")),
                           d8 + "yyyy"),
         invalid, "unused bytes"},
        {"bytes after the end", with(entry("a", "[1]", "[0,4]")), invalid, "4 bytes after"},
        {"data without tensors", safetensors_bytes("{}", "x"), invalid, "1 bytes after"},
        {"metadata is text", with("\"__metadata__\":\"x\"," + good), invalid, "__metadata__"},
        {"metadata holds a number", with("\"__metadata__\":{\"k\":1}," + good), invalid, "'k'"},
    };
}

TEST(Safetensors, RefusesEveryBrokenFileByNameAndReason) {
    const TempDir folder;
    const Path path = folder.path() / "broken.safetensors";
    for (const Broken& broken : broken_files()) {
        write_bytes(path, broken.bytes);
        const auto file = SafetensorsFile::open(path);
        ASSERT_FALSE(file.has_value()) << broken.label;
        EXPECT_EQ(file.error().code, broken.code) << broken.label << ": " << file.error().message;
        EXPECT_TRUE(file.error().message.starts_with(path.string())) << file.error().message;
        EXPECT_NE(file.error().message.find(broken.words), std::string::npos)
            << broken.label << ": " << file.error().message;
        EXPECT_LT(file.error().message.size(), 800u) << broken.label;
    }
}

TEST(Safetensors, AMissingFileIsNotFound) {
    const TempDir folder;
    EXPECT_EQ(SafetensorsFile::open(folder.path() / "none").error().code, Errc::NotFound);
    EXPECT_EQ(SafetensorsFile::open(folder.path()).error().code, Errc::InvalidFile);
}

const std::array<float, 6> kValues{1.0F, -2.0F, 0.5F, 3.0F, 4.0F, -0.25F};
const std::array<std::uint16_t, 2> kHalves{0x3F80, 0xBF80};  // bf16 1 and -1

std::vector<TensorToWrite> small_set() {
    return {{"h", DType::BF16, {2}, std::as_bytes(std::span(kHalves))},
            {"w\"1", DType::F32, {2, 3}, std::as_bytes(std::span(kValues))},
            {"none", DType::F32, {0, 7}, {}},
            {"scalar", DType::F32, {}, std::as_bytes(std::span(kValues).first(1))}};
}

TEST(Safetensors, WhatIsWrittenReadsBack) {
    const TempDir folder;
    const Path path = folder.path() / "a.safetensors";
    ASSERT_TRUE(write_safetensors(path, small_set(), {{"format", "pt"}, {"k", "\"v\""}}).has_value());
    const auto file = SafetensorsFile::open(path).value();
    EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"k", "\"v\""}}));
    ASSERT_EQ(file.tensors().size(), 4u);
    for (const TensorToWrite& written : small_set()) {
        const TensorInfo* read = file.find(written.name);
        ASSERT_NE(read, nullptr) << written.name;
        EXPECT_EQ(read->dtype, written.dtype);
        EXPECT_EQ(read->shape, written.shape);
        EXPECT_TRUE(std::ranges::equal(read->bytes, written.bytes)) << written.name;
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(read->bytes.data()) % tensor::size_of(read->dtype), 0u);
    }
    EXPECT_EQ(file.find("w"), nullptr);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1)
        << "temporary left behind";
}

TEST(Safetensors, GoldenBytesOfATinyFile) {
    const TempDir folder;
    const Path path = folder.path() / "a.safetensors";
    const std::array<float, 2> values{1.0F, -2.0F};
    const std::vector<TensorToWrite> tensors{{"ab", DType::F32, {1, 2}, std::as_bytes(std::span(values))}};
    ASSERT_TRUE(write_safetensors(path, tensors, {{"format", "pt"}}).has_value());
    const std::string header =
        R"({"__metadata__":{"format":"pt"},"ab":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})";
    const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
    const std::string data("\0\0\x80\x3F\0\0\0\xC0", 8);
    EXPECT_EQ(read_file(path).value(), safetensors_bytes(padded, data));
    EXPECT_EQ(padded.size(), 88u);
}

TEST(Safetensors, CutAnywhereItIsRefused) {
    const TempDir folder;
    const Path path = folder.path() / "a.safetensors";
    ASSERT_TRUE(write_safetensors(path, small_set(), {{"format", "pt"}}).has_value());
    const std::string whole = read_file(path).value();
    for (std::size_t size = 0; size < whole.size(); ++size) {
        write_bytes(path, whole.substr(0, size));
        const auto file = SafetensorsFile::open(path);
        ASSERT_FALSE(file.has_value()) << "cut to " << size << " of " << whole.size();
        EXPECT_EQ(file.error().code, Errc::InvalidFile);
    }
}

TEST(Safetensors, TheWriterRefusesWhatTheReaderWould) {
    const TempDir folder;
    const Path path = folder.path() / "a.safetensors";
    const auto bytes = std::as_bytes(std::span(kValues));
    const std::vector<std::vector<TensorToWrite>> cases{
        {{"", DType::F32, {6}, bytes}},
        {{"__metadata__", DType::F32, {6}, bytes}},
        {{"a", DType::F32, {5}, bytes}},
        {{"a", DType::F32, {std::uint64_t{1} << 63, 2, 3}, bytes}},
        {{"a", DType::F32, {1, 1, 1, 1, 1, 1, 1, 1, 6}, bytes}},
        {{"a", DType::F32, {6}, bytes}, {"a", DType::F32, {6}, bytes}},
        {{"\xff", DType::F32, {6}, bytes}}};
    for (const auto& tensors : cases) {
        const auto result = write_safetensors(path, tensors);
        ASSERT_FALSE(result.has_value()) << tensors.front().name;
        EXPECT_EQ(result.error().code, Errc::InvalidArgument) << result.error().message;
        EXPECT_TRUE(result.error().message.starts_with(path.string()));
    }
    EXPECT_EQ(write_safetensors(folder.path() / "no" / "a", small_set()).error().code, Errc::IoFailed);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Safetensors, FloatsOfEveryTypeEvenUnaligned) {
    const TempDir folder;
    const Path path = folder.path() / "a.safetensors";
    std::string data = "x";  // one byte first: nothing after it is aligned
    const auto append = [&](const auto& values) {
        data.append(reinterpret_cast<const char*>(values.data()), sizeof values);
    };
    append(std::array<double, 2>{0.1, -1e300});
    append(std::array<float, 2>{0.1F, -0.0F});
    append(std::array<std::uint16_t, 2>{0x3C00, 0x8001});  // f16: 1, the smallest negative subnormal
    append(std::array<std::uint16_t, 2>{0x3F80, 0xC000});  // bf16: 1, -2
    const std::string entries = entry("u", "[1]", "[0,1]", "U8") + "," + entry("d", "[2]", "[1,17]", "F64") +
                                "," + entry("f", "[2]", "[17,25]") + "," +
                                entry("h", "[2]", "[25,29]", "F16") + "," +
                                entry("b", "[2]", "[29,33]", "BF16");
    write_bytes(path, safetensors_bytes(object(entries), data));
    const auto file = SafetensorsFile::open(path).value();
    const auto floats = [&](const char* name) { return read_floats(*file.find(name)).value(); };
    EXPECT_EQ(floats("d"), (std::vector<float>{0.1F, -std::numeric_limits<float>::infinity()}));
    EXPECT_EQ(floats("f"), (std::vector<float>{0.1F, -0.0F}));
    EXPECT_TRUE(std::signbit(floats("f")[1]));
    EXPECT_EQ(floats("h"), (std::vector<float>{1.0F, -0x1p-24F}));
    EXPECT_EQ(floats("b"), (std::vector<float>{1.0F, -2.0F}));
    EXPECT_EQ(read_floats(*file.find("u")).error().code, Errc::Unsupported);
    EXPECT_EQ(describe(*file.find("b")), "'b' BF16 [2]");
}

TEST(Safetensors, SurvivesBeingMoved) {
    const TempDir folder;
    const Path path = folder.path() / "a.safetensors";
    ASSERT_TRUE(write_safetensors(path, small_set()).has_value());
    auto first = SafetensorsFile::open(path).value();
    const TensorInfo* tensor = first.find("w\"1");
    const SafetensorsFile second = std::move(first);
    EXPECT_EQ(second.find("w\"1"), tensor);
    EXPECT_EQ(read_floats(*tensor).value(), std::vector<float>(kValues.begin(), kValues.end()));
}

}  // namespace
}  // namespace fedllm::formats
