// Finished updates on disk, until the server's verdict: a client that dies after training offers what it has
// instead of training again.
//
//   <folder>/<task>.update   the encoded bytes
//   <folder>/<task>.yaml     what the Offer claims about them; written last, so that with it the update
//   exists
//   <folder>/residuals/      what encoding left out of them
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "client/update/residual_store.hpp"
#include "common/base/files.hpp"
#include "common/base/ids.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::update {

// Loss of a model version on this client's held-out data.
struct Evaluation {
    double loss_sum = 0;
    std::uint64_t tokens = 0;
    bool operator==(const Evaluation&) const = default;
};

// What an Offer says.
struct Claim {
    std::string digest;
    std::uint64_t bytes = 0;
    std::uint64_t samples = 0;
    std::uint64_t tokens = 0;
    double train_loss = 0;
    double train_seconds = 0;
    double update_norm = 0;
    Evaluation evaluation = {};  // of the version the task started from
    std::string codec = "none";  // the rest as in EncodedUpdate
    double quantisation_error = 0;
    double residual_norm = 0;
    bool operator==(const Claim&) const = default;
};

class UpdateStore {
public:
    static Result<UpdateStore> open(const Path& folder);

    Result<void> save(const TaskId& task, const Claim& claim, std::span<const std::byte> bytes) const;

    // Nothing when there is none or when what is there is damaged (which is then removed): training again is
    // safe.
    std::optional<Claim> find(const TaskId& task) const;

    Result<MappedFile> map(const TaskId& task) const;
    void drop(const TaskId& task) const;          // the residual that is staged for it stays
    void drop_all_but(const TaskId& task) const;  // the others' tasks are over: a client has one at a time

    const ResidualStore& residuals() const { return residuals_; }

private:
    UpdateStore(Path folder, ResidualStore residuals)
        : folder_(std::move(folder)), residuals_(std::move(residuals)) {}
    Path path(const TaskId& task, const char* extension) const;

    Path folder_;
    ResidualStore residuals_;
};

}  // namespace fedllm::client::update
