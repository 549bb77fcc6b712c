// A base model, its tokenizer and perhaps an adapter, opened for commands that work on this machine alone.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/data/dataset.hpp"
#include "client/data/tokenizer.hpp"
#include "client/model/base_model.hpp"
#include "client/train/generate.hpp"
#include "client/train/trainer.hpp"
#include "common/base/files.hpp"
#include "common/job/job_spec.hpp"

namespace fedllm::tools::local {

// What is computed with: the model as it is, or with an adapter over it.
struct Trainable {
    job::Method method = job::Method::Lora;
    tensor::LoraSpec lora;
    tensor::ParamSet params;
};

// A continued text, and why it ended: "eos" (the model's own end), "stop" (a stop string) or "length".
struct Generated {
    std::string text;
    std::size_t tokens = 0;
    std::string ended;
};
using OnText = std::function<void(std::string_view)>;

// Lifecycle: unmovable, because trainers point into it. Concurrency: one thread calls; the pool does the
// work.
class Workspace {
public:
    static Result<std::unique_ptr<Workspace>> open(const Path& model_folder, unsigned threads,
                                                   const tensor::BaseSpec& base = {});
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    const client::model::BaseModel& model() const { return model_; }
    const client::data::Tokenizer& tokenizer() const { return tokenizer_; }
    kernels::ThreadPool& pool() { return pool_; }

    // The adapter in `folder`, checked against the model; with an empty path the model as it is.
    Result<Trainable> load_adapter(const Path& folder) const;

    // Mean loss over every row of a JSONL file.
    Result<client::train::EvalOutcome> evaluate(const Trainable& what, const Path& data,
                                                std::uint32_t sequence_length);
    // Ends at the model's end tokens and before the first of `stops`. `on_text` is told the text piece by
    // piece as it comes, whole characters only.
    Result<Generated> generate(const Trainable& what, const std::string& prompt,
                               client::train::GenerateOptions options, std::vector<std::string> stops = {},
                               const OnText& on_text = {});
    // The same from tokens: those of chat_prompt().
    Result<Generated> continue_tokens(const Trainable& what, const std::vector<std::int32_t>& ids,
                                      client::train::GenerateOptions options,
                                      std::vector<std::string> stops = {}, const OnText& on_text = {});
    // A user's message (and a system's, if not empty), written by the model's chat template.
    Result<std::vector<std::int32_t>> chat_prompt(const std::string& system, const std::string& user) const;

private:
    Workspace(client::model::BaseModel model, client::data::Tokenizer tokenizer,
              std::vector<std::int32_t> end_tokens, unsigned threads)
        : model_(std::move(model)),
          tokenizer_(std::move(tokenizer)),
          end_tokens_(std::move(end_tokens)),
          pool_(threads) {}

    client::model::BaseModel model_;
    client::data::Tokenizer tokenizer_;
    std::vector<std::int32_t> end_tokens_;
    kernels::ThreadPool pool_;
};

// What a job starts from: an adapter that changes nothing yet, or a copy of the base's weights.
Result<Trainable> initial_state(const client::model::BaseModel& model, const job::JobSpec& job);

// A new model of random weights in `folder`, for training from scratch: config.json, model.safetensors (f32),
// and the tokenizer beside them.
Result<void> create_model(const Path& folder, const Path& config_json, const Path& tokenizer_json,
                          std::uint64_t seed);

// What training made, in the form others load: a PEFT folder, or a model folder (bf16) with the tokenizer.
Result<void> save(const Path& folder, const Trainable& what, const Workspace& workspace,
                  const Path& model_folder, const std::string& base_model_name);

}  // namespace fedllm::tools::local
