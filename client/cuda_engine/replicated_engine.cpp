#include "client/cuda_engine/replicated_engine.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "client/cuda_engine/guarded.hpp"

namespace fedllm::client::cuda_engine {
namespace {

constexpr std::chrono::microseconds kAskAgain{50};  // of a step's many milliseconds

}  // namespace

using engine::BatchView;
using engine::StepReport;
using engine::StepResult;

std::size_t most_rows(std::size_t rows, std::size_t gpus) { return (rows + gpus - 1) / gpus; }

ReplicatedEngine::Share ReplicatedEngine::share(std::size_t gpu, std::size_t rows) const {
    const std::size_t each = rows / engines_.size(), over = rows % engines_.size();
    return {gpu * each + std::min(gpu, over), each + (gpu < over ? 1 : 0)};
}

std::size_t ReplicatedEngine::owner(std::size_t row, std::size_t rows) const {
    std::size_t gpu = 0;
    while (gpu < engines_.size() && row - share(gpu, rows).first >= share(gpu, rows).count) ++gpu;
    FEDLLM_CHECK(gpu < engines_.size(), "every row of a batch has its GPU");
    return gpu;
}

Result<void> ReplicatedEngine::begin_training(tensor::ParamSet& params) {
    trained_ = &params;
    for (const auto& engine : engines_) FEDLLM_TRY_VOID(engine->begin_training(params));
    return {};
}

Result<void> ReplicatedEngine::start(const BatchView& batch, const engine::OptimizerStep& step) {
    FEDLLM_CHECK(trained_ != nullptr, "begin_training() comes first");
    FEDLLM_TRY_VOID(check_batch(network(), limits_, batch));
    const std::uint64_t counted = counted_tokens(batch);
    for (const auto& engine : engines_) FEDLLM_TRY_VOID(engine->begin_step(step, counted));
    for (std::size_t row = 0; row < batch.rows; row += limits_.rows)
        FEDLLM_TRY_VOID(add_gradients(batch.slice(row, std::min(limits_.rows, batch.rows - row))));
    FEDLLM_TRY_VOID(sum());
    for (const auto& engine : engines_) FEDLLM_TRY_VOID(engine->end_step());
    return {};
}

// A micro-batch of each GPU: all have work before one is given its next. Where there are fewer rows than
// GPUs, some add nothing.
Result<void> ReplicatedEngine::add_gradients(const BatchView& rows) {
    for (std::size_t gpu = 0; gpu < engines_.size(); ++gpu) {
        const Share mine = share(gpu, rows.rows);
        if (mine.count == 0) continue;
        FEDLLM_TRY_VOID(engines_[gpu]->add_gradients(rows.slice(mine.first, mine.count)));
    }
    return {};
}

// The loss, too: what is not finite on one GPU must keep all from the step.
Result<void> ReplicatedEngine::sum() {
    std::vector<kernels::cuda::Addend<float>> gradients;
    std::vector<kernels::cuda::Addend<double>> losses;
    for (const auto& engine : engines_) {
        gradients.push_back(engine->gradients());
        losses.push_back(engine->loss_sum());
    }
    const auto summed = guarded(engines_.front()->device(), [&]() -> Result<void> {
        communicator_->sum(gradients, network().parameters());
        communicator_->sum(losses, 1);
        return {};
    });
    return summed ? summed : given_up(summed.error());
}

// All are asked in turn: where a GPU fails, the others would wait for its sums for ever.
Result<StepReport> ReplicatedEngine::finish() {
    for (bool done = false; !done;) {
        done = true;
        for (const auto& engine : engines_) {
            const Result<bool> reported = engine->reported();
            if (!reported) return given_up(reported.error());
            done = done && *reported;
        }
        if (!done) std::this_thread::sleep_for(kAskAgain);
    }
    return engines_.front()->finish();
}

Error ReplicatedEngine::given_up(const Error& error) {
    communicator_->abort();
    return error;
}

Result<void> ReplicatedEngine::end_training() {
    FEDLLM_CHECK(trained_ != nullptr, "begin_training() comes first");
    const tensor::ParamSet& params = *std::exchange(trained_, nullptr);
    FEDLLM_TRY_VOID(engines_.front()->end_training());
    for (std::size_t gpu = 1; gpu < engines_.size(); ++gpu)
        FEDLLM_TRY_VOID(engines_[gpu]->end_training_as(params));
    return {};
}

Result<void> ReplicatedEngine::begin_evaluation(const tensor::ParamSet& params) {
    for (const auto& engine : engines_) FEDLLM_TRY_VOID(engine->begin_evaluation(params));
    return {};
}

Result<StepResult> ReplicatedEngine::loss(const BatchView& batch) {
    FEDLLM_CHECK(batch.rows <= limits_.rows, "the batch must fit the limits given at creation");
    FEDLLM_TRY_VOID(check_batch(network(), limits_, batch));
    const std::size_t busy = std::min(batch.rows, engines_.size());
    for (std::size_t gpu = 0; gpu < busy; ++gpu) {
        const Share mine = share(gpu, batch.rows);
        FEDLLM_TRY_VOID(engines_[gpu]->start_loss(batch.slice(mine.first, mine.count)));
    }
    StepResult whole;
    losses_.clear();
    for (std::size_t gpu = 0; gpu < busy; ++gpu) {
        FEDLLM_TRY(const StepResult part, engines_[gpu]->finish_loss());
        whole.loss_sum += part.loss_sum;
        whole.tokens += part.tokens;
        losses_.insert(losses_.end(), engines_[gpu]->losses().begin(), engines_[gpu]->losses().end());
    }
    return whole;
}

// One GPU after the other, each for the places that follow one another in its rows.
Result<void> ReplicatedEngine::logits(const BatchView& batch, std::span<const std::int32_t> places,
                                      kernels::Matrix out) {
    FEDLLM_CHECK(batch.rows <= limits_.rows, "the batch must fit the limits given at creation");
    FEDLLM_TRY_VOID(check_batch(network(), limits_, batch));
    const auto row_of = [&](std::size_t i) {
        return static_cast<std::size_t>(places[i]) / batch.tokens_per_row;
    };
    for (std::size_t done = 0; done < places.size();) {
        const std::size_t gpu = owner(row_of(done), batch.rows);
        const Share mine = share(gpu, batch.rows);
        const BatchView rows = batch.slice(mine.first, mine.count);
        std::vector<std::int32_t> here;
        for (std::size_t i = done; i < places.size() && here.size() < rows.tokens.size(); ++i) {
            if (row_of(i) - mine.first >= mine.count) break;
            here.push_back(places[i] - static_cast<std::int32_t>(mine.first * batch.tokens_per_row));
        }
        FEDLLM_TRY_VOID(engines_[gpu]->logits(rows, here, out.slice(done, here.size())));
        done += here.size();
    }
    return {};
}

}  // namespace fedllm::client::cuda_engine
