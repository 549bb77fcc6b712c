// Readings of GPUs, from a library with NVML's interface that says what this file expects (fake_nvml.cpp):
// the real one needs a GPU, where tests/gpu.sh reads it.
#include "kernels/device/gpu_telemetry.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace fedllm::kernels {
namespace {

TEST(GpuTelemetry, ReadsWhatNvmlSays) {
    const GpuTelemetry telemetry(FEDLLM_FAKE_NVML);
    EXPECT_EQ(telemetry.none_because(), "");
    const auto readings = telemetry.read();
    ASSERT_EQ(readings.size(), 2u);  // the third fell off the bus
    EXPECT_EQ(readings[0].index, 0u);
    EXPECT_EQ(readings[0].name, "First GPU");
    EXPECT_DOUBLE_EQ(readings[0].utilisation, 0.87);
    EXPECT_EQ(readings[0].memory_used_bytes, 10'000'000'000u);
    EXPECT_EQ(readings[0].memory_total_bytes, 80'000'000'000u);
    EXPECT_DOUBLE_EQ(readings[0].temperature_celsius, 54);
    EXPECT_DOUBLE_EQ(readings[0].power_watts, 312.5);
    EXPECT_EQ(readings[1].index, 1u);
    EXPECT_TRUE(std::isnan(readings[1].power_watts));
    EXPECT_TRUE(std::isnan(readings[1].utilisation));
    EXPECT_DOUBLE_EQ(readings[1].temperature_celsius, 31);
}

TEST(GpuTelemetry, SaysWhyThereAreNone) {
    const GpuTelemetry absent("libnvidia-of-another-planet.so.1");
    EXPECT_NE(absent.none_because().find("no NVIDIA driver"), std::string::npos);
    EXPECT_TRUE(absent.read().empty());
    const GpuTelemetry other("libm.so.6");
    EXPECT_NE(other.none_because().find("too old"), std::string::npos);
}

}  // namespace
}  // namespace fedllm::kernels
