#include "tools/local/workspace.hpp"

#include <chrono>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "client/model/manifests.hpp"
#include "client/train/evaluator.hpp"
#include "client/train/text_stream.hpp"
#include "common/base/clock.hpp"
#include "common/formats/peft.hpp"
#include "tools/local/end_tokens.hpp"

namespace fedllm::tools::local {

namespace model = client::model;
namespace data = client::data;
namespace train = client::train;

Result<std::unique_ptr<Workspace>> Workspace::open(const Path& model_folder, unsigned threads,
                                                   const tensor::BaseSpec& held_as) {
    FEDLLM_TRY(auto base, model::BaseModel::load(model_folder, held_as));
    FEDLLM_TRY(auto tokenizer, data::Tokenizer::load_folder(model_folder));
    if (tokenizer.vocab_size() > base.config().vocab) {
        return make_error(Errc::InvalidModel, model_folder.string() + ": the tokenizer has " +
                                                  std::to_string(tokenizer.vocab_size()) +
                                                  " ids, the model's vocabulary only " +
                                                  std::to_string(base.config().vocab));
    }
    FEDLLM_TRY(auto ends, end_tokens(model_folder, base.config().vocab));
    if (tokenizer.eos()) ends.push_back(*tokenizer.eos());
    return std::unique_ptr<Workspace>(
        new Workspace(std::move(base), std::move(tokenizer), std::move(ends), threads));
}

Result<Trainable> Workspace::load_adapter(const Path& folder) const {
    if (folder.empty()) return Trainable{};
    FEDLLM_TRY(auto loaded, formats::read_peft_adapter(folder));
    // Binding it is the check: ranks, scales and layers may be any that the model has.
    const auto network = client::engine::Network::create(model_.config(), model_.weights(),
                                                         loaded.parameters.manifest(), loaded.spec);
    if (!network) {
        return with_context(network.error(), folder.string() + ": this adapter is for another model");
    }
    return Trainable{job::Method::Lora, std::move(loaded.spec), std::move(loaded.parameters)};
}

Result<train::EvalOutcome> Workspace::evaluate(const Trainable& what, const Path& path,
                                               std::uint32_t sequence_length) {
    const data::DatasetOptions options{
        .sequence_length = sequence_length, .eval_fraction = 0.0, .seed = 0, .eval_path = {}};
    FEDLLM_TRY(const auto dataset, data::Dataset::load_jsonl(path, tokenizer_, options));
    FEDLLM_TRY(auto evaluator,
               train::Evaluator::create(model_, what.params.manifest(), what.lora, sequence_length, pool_));
    return evaluator.evaluate(what.params, dataset.train());
}

Result<Generated> Workspace::generate(const Trainable& what, const std::string& prompt,
                                      train::GenerateOptions options, std::vector<std::string> stops,
                                      const OnText& on_text) {
    std::vector<std::int32_t> ids = tokenizer_.encode(prompt, data::AddSpecial::No);
    if (tokenizer_.bos()) ids.insert(ids.begin(), *tokenizer_.bos());
    if (ids.empty())
        return make_error(Errc::InvalidArgument, "the prompt is empty, and the model has no BOS token");
    return continue_tokens(what, ids, std::move(options), std::move(stops), on_text);
}

Result<std::vector<std::int32_t>> Workspace::chat_prompt(const std::string& system,
                                                         const std::string& user) const {
    const auto* chat = tokenizer_.chat_template();
    if (!chat) return make_error(Errc::NotFound, "the model's folder has no chat template; leave --chat out");
    if (!*chat) return chat->error();
    nlohmann::ordered_json messages = nlohmann::ordered_json::array();
    if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
    messages.push_back({{"role", "user"}, {"content", user}});
    FEDLLM_TRY(const auto conversation, data::Conversation::parse({{"messages", messages}}));
    const std::time_t seconds = std::chrono::system_clock::to_time_t(SystemClock().now());
    std::tm today{};
    ::localtime_r(&seconds, &today);
    FEDLLM_TRY(const auto rendered, (*chat)->render(conversation, conversation.messages.size(),
                                                    data::GenerationPrompt::Yes, today));
    return tokenizer_.encode(rendered.text);
}

Result<Generated> Workspace::continue_tokens(const Trainable& what, const std::vector<std::int32_t>& ids,
                                             train::GenerateOptions options, std::vector<std::string> stops,
                                             const OnText& on_text) {
    options.stop.insert(options.stop.end(), end_tokens_.begin(), end_tokens_.end());
    FEDLLM_TRY(const auto network, client::engine::Network::create(model_.config(), model_.weights(),
                                                                   what.params.manifest(), what.lora));
    train::TextStream stream(tokenizer_, ids, std::move(stops));
    Generated made;
    const auto show = [&](const std::string& text) {
        made.text += text;
        if (on_text && !text.empty()) on_text(text);
    };
    FEDLLM_TRY(const auto answer,
               train::generate(pool_, network, what.params, ids, options, [&](std::int32_t token) {
                   show(stream.push(token));
                   return !stream.stopped();
               }));
    show(stream.finish());
    made.tokens = answer.size();
    const bool full =
        made.tokens >= options.new_tokens_max || ids.size() + made.tokens > model_.config().context;
    made.ended = stream.stopped() ? "stop" : full ? "length" : "eos";
    return made;
}

Result<Trainable> initial_state(const model::BaseModel& base, const job::JobSpec& job) {
    Trainable start{job.method, job.lora, {}};
    if (job.method == job::Method::Full) {
        start.params = model::full_parameters(base);
        return start;
    }
    FEDLLM_TRY(const auto manifest, model::lora_manifest(base.config(), job.lora));
    start.params = model::initial_lora(manifest, job.seed);
    return start;
}

Result<void> create_model(const Path& folder, const Path& config_json, const Path& tokenizer_json,
                          std::uint64_t seed) {
    FEDLLM_TRY(const std::string text, read_file(config_json));
    FEDLLM_TRY(const auto config, model::parse_model_config(text, config_json.string()));
    FEDLLM_TRY(const std::string tokenizer, read_file(tokenizer_json));
    FEDLLM_TRY_VOID(make_directories(folder));
    FEDLLM_TRY_VOID(model::write_model_folder(folder, config, model::initial_full(config, seed),
                                              model::WeightsFormat::F32));
    return write_file_atomically(folder / "tokenizer.json", tokenizer);
}

Result<void> save(const Path& folder, const Trainable& what, const Workspace& workspace,
                  const Path& model_folder, const std::string& base_model_name) {
    FEDLLM_TRY_VOID(make_directories(folder));
    if (what.method == job::Method::Lora) {
        return formats::write_peft_adapter(folder, what.params, what.lora, base_model_name);
    }
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
        if (!std::filesystem::exists(model_folder / name)) continue;
        FEDLLM_TRY(const std::string text, read_file(model_folder / name));
        FEDLLM_TRY_VOID(write_file_atomically(folder / name, text));
    }
    return model::write_model_folder(folder, workspace.model().config(), what.params,
                                     model::WeightsFormat::BF16);
}

}  // namespace fedllm::tools::local
