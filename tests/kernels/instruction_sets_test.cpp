// The same tests on a lesser processor: FEDLLM_TEST_INSTRUCTION_SET=avx2 or =baseline hides what is above it.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "hwy/targets.h"

namespace {

class InstructionSet : public ::testing::Environment {
public:
    void SetUp() override {
        const char* chosen = std::getenv("FEDLLM_TEST_INSTRUCTION_SET");
        if (chosen == nullptr) return;
        const std::string name = chosen;
        ASSERT_TRUE(name == "avx2" || name == "baseline") << name;
        std::int64_t hidden = HWY_AVX3 | HWY_AVX3_DL;
        if (name == "baseline") hidden |= HWY_AVX2;
        hwy::DisableTargets(hidden);
        // SupportedTargets() of Highway 1.0.3 chooses without regard to what is disabled: choose again, last.
        const std::int64_t left = hwy::SupportedTargets();
        ASSERT_EQ(left & hidden, 0);
        hwy::GetChosenTarget().Update(left);
    }
};

const auto* const kInstructionSet = ::testing::AddGlobalTestEnvironment(new InstructionSet);

}  // namespace
