// Distinct things have distinct types: a ClientId is not a JobId although both are text.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace fedllm {

template <class Tag, class Rep>
class StrongId {
public:
    using rep = Rep;

    StrongId() = default;
    explicit StrongId(Rep value) : value_(std::move(value)) {}

    const Rep& get() const { return value_; }
    auto operator<=>(const StrongId&) const = default;

private:
    Rep value_{};
};

using ClientId = StrongId<struct ClientIdTag, std::string>;  // the name in the certificate, e.g. "site-a"
using JobId = StrongId<struct JobIdTag, std::string>;        // "j" and a number: "j1"
using TaskId = StrongId<struct TaskIdTag, std::string>;  // "<job>/<round>/<client>", the same after a restart
using RoundId = StrongId<struct RoundIdTag, std::uint32_t>;  // counts from 0 inside a job
using SampleCount = StrongId<struct SampleCountTag, std::uint64_t>;

}  // namespace fedllm

template <class Tag, class Rep>
struct std::hash<fedllm::StrongId<Tag, Rep>> {
    std::size_t operator()(const fedllm::StrongId<Tag, Rep>& id) const { return std::hash<Rep>{}(id.get()); }
};
