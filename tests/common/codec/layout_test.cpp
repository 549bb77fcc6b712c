#include "common/codec/layout.hpp"

#include <gtest/gtest.h>

namespace fedllm::codec {
namespace {

TEST(Layout, TensorsThatDifferOnlyInNumbersShareAGroup) {
    const auto manifest = *tensor::Manifest::create({{"layers.0.q.A", {2, 8}},
                                                     {"layers.0.q.B", {8, 2}},
                                                     {"layers.10.q.A", {2, 8}},
                                                     {"layers.10.q.B", {4, 2}},
                                                     {"layers.11.q.B", {4, 2}}});
    const Layout expected{{{16, 0}, {16, 1}, {16, 0}, {16, 1}}, 64, 2};
    EXPECT_EQ(layout_of(manifest), expected);
}

TEST(Layout, HasAtMostTheGroupsThatAByteCanName) {
    std::vector<tensor::TensorSpec> tensors;
    for (int i = 0; i < 300; ++i) tensors.push_back({std::string(static_cast<std::size_t>(i) + 1, 'x'), {3}});
    const Layout layout = layout_of(*tensor::Manifest::create(std::move(tensors)));
    EXPECT_EQ(layout.groups, kGroupsMax);
    EXPECT_EQ(layout.elements, 900u);
    EXPECT_EQ(layout.runs.back(), (Layout::Run{3 * 45, kGroupsMax - 1}));
}

}  // namespace
}  // namespace fedllm::codec
