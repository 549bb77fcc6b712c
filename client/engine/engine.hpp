// Engine: what the trainer drives, on whatever computes it. One implementation on the CPU (cpu_engine.hpp),
// one on NVIDIA's GPUs (client/cuda_engine).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/engine/network.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/adamw/op.hpp"

namespace fedllm::client::engine {

// B rows of T tokens. targets[i] is what token i should predict (kernels::kIgnoreIndex: nothing); positions
// count from 0 in each document; first_key[i] is the first place of the row that token i may see. All (B,T).
struct BatchView {
    std::size_t rows = 0;
    std::size_t tokens_per_row = 0;
    std::span<const std::int32_t> tokens, targets, positions, first_key;

    // Rows [first, first + count) alone.
    BatchView slice(std::size_t first, std::size_t count) const;
};

// What the forward pass keeps for the backward pass: all activations, or of each layer its input, from which
// the backward pass computes the rest again (the same bits).
enum class Keep { Activations, LayerInputs };

// The largest micro-batch that will come: buffers are laid out for it.
struct Limits {
    std::size_t rows = 1;
    std::size_t tokens_per_row = 0;
    Keep keep = Keep::Activations;
};

struct StepResult {
    double loss_sum = 0;       // of the counted tokens, in nats
    std::uint64_t tokens = 0;  // how many were counted
};

// InvalidArgument where a network cannot have rows of that length.
Result<void> check_limits(const Network& network, const Limits& limits);
// InvalidData for a token, position or first_key out of range. The batch may have any number of rows.
Result<void> check_batch(const Network& network, const Limits& limits, const BatchView& batch);

// One step of the optimiser, AdamW with clipping by the global norm (0: none).
struct OptimizerStep {
    kernels::AdamWConfig adamw;
    std::uint64_t number = 1;  // counted from begin_training(), for the bias correction
    double gradient_clip = 0;
};

struct StepReport {
    StepResult loss;           // before the update
    double gradient_norm = 0;  // before clipping
};

// Consecutive values that are carried along but not trained.
struct Run {
    std::size_t first = 0;
    std::size_t count = 0;
};

// Lifecycle: large memory is taken when it is made. A ParamSet that is begun with stays, untouched, until the
// end. Concurrency: one call at a time. Errors: InvalidData for a token, position or first_key out of range;
// DeviceFailed where a GPU does.
class Engine {
public:
    virtual ~Engine() = default;

    virtual const Network& network() const = 0;
    virtual const Limits& limits() const = 0;
    // How it computes and in what memory, in words; empty: nothing to say.
    virtual std::string plan() const { return {}; }

    // Trains `params` in place; they hold the outcome after end_training(). The optimiser starts anew.
    virtual Result<void> begin_training(tensor::ParamSet& params) = 0;
    // One step on a batch of any number of rows: gradients of the mean loss over its counted tokens, clipped,
    // and the update. The device works on while the host goes on; the batch's arrays may change when start()
    // returns. A loss or norm that is not finite changes no parameter: the report tells.
    virtual Result<void> start(const BatchView& batch, const OptimizerStep& step) = 0;
    virtual Result<StepReport> finish() = 0;  // of what start() began
    virtual Result<void> end_training() = 0;

    // `params` for what follows. Not between begin_training() and end_training().
    virtual Result<void> begin_evaluation(const tensor::ParamSet& params) = 0;
    virtual Result<StepResult> loss(const BatchView& batch) = 0;  // within limits()
    // Losses of the tokens that counted in the last loss(), in their order.
    virtual std::span<const float> losses() const = 0;
    // The logits of chosen tokens (indices into the batch) to out (places.size(), V), host memory.
    virtual Result<void> logits(const BatchView& batch, std::span<const std::int32_t> places,
                                kernels::Matrix out) = 0;
};

// Where engines are made. Two implementations, as of Engine.
class Backend {
public:
    virtual ~Backend() = default;

    virtual std::string name() const = 0;  // "cpu, 2 threads"
    // Memory that an engine takes for activations and scratch, and how much it may take: what the micro-batch
    // is chosen by.
    virtual std::size_t buffer_bytes(const Network& network, const Limits& limits) const = 0;
    virtual std::size_t buffer_bytes_max() const = 0;
    // `frozen`, in order, gets no gradient and no weight decay.
    virtual Result<std::unique_ptr<Engine>> make(Network network, Limits limits, std::vector<Run> frozen) = 0;
};

}  // namespace fedllm::client::engine
