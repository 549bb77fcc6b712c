#include "tools/local/workspace.hpp"

#include <chrono>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "client/model/manifests.hpp"
#include "common/base/clock.hpp"
#include "common/formats/peft.hpp"

namespace fedllm::tools::local {

namespace model = client::model;
namespace data = client::data;
namespace train = client::train;

Result<std::unique_ptr<Workspace>> Workspace::open(const Path& model_folder, unsigned threads) {
    FEDLLM_TRY(auto base, model::BaseModel::load(model_folder));
    FEDLLM_TRY(auto tokenizer, data::Tokenizer::load_folder(model_folder));
    if (tokenizer.vocab_size() > base.config().vocab) {
        return make_error(Errc::InvalidModel, model_folder.string() + ": the tokenizer has " +
                                                  std::to_string(tokenizer.vocab_size()) +
                                                  " ids, the model's vocabulary only " +
                                                  std::to_string(base.config().vocab));
    }
    return std::unique_ptr<Workspace>(new Workspace(std::move(base), std::move(tokenizer), threads));
}

Result<Trainable> Workspace::load_adapter(const Path& folder) const {
    if (folder.empty()) return Trainable{};
    FEDLLM_TRY(auto loaded, formats::read_peft_adapter(folder));
    FEDLLM_TRY(const auto expected, model::lora_manifest(model_.config(), loaded.spec));
    const std::string differs = tensor::difference(expected, loaded.parameters.manifest());
    if (!differs.empty()) {
        return make_error(Errc::ManifestMismatch,
                          folder.string() + ": this adapter is for another model: " + differs);
    }
    return Trainable{job::Method::Lora, std::move(loaded.spec), std::move(loaded.parameters)};
}

Result<train::EvalOutcome> Workspace::evaluate(const Trainable& what, const Path& path,
                                               std::uint32_t sequence_length) {
    const data::DatasetOptions options{
        .sequence_length = sequence_length, .eval_fraction = 0.0, .seed = 0, .eval_path = {}};
    FEDLLM_TRY(const auto dataset, data::Dataset::load_jsonl(path, tokenizer_, options));
    job::JobSpec job;
    job.method = what.method;
    job.lora = what.lora;
    job.train.sequence_length = sequence_length;
    tensor::ParamSet params = what.params;
    if (params.values().empty()) {
        // The trainer always has something to train: an adapter with B = 0 is the model as it is, exactly.
        job.lora.rank = 1;
        job.lora.target_modules = {"q_proj"};
        FEDLLM_TRY(const auto start, initial_state(model_, job));
        params = start.params;
    }
    FEDLLM_TRY(const auto trainer, train::Trainer::create(model_, job, pool_));
    return trainer->evaluate(params, dataset.train());
}

Result<std::string> Workspace::generate(const Trainable& what, const std::string& prompt,
                                        train::GenerateOptions options) {
    std::vector<std::int32_t> ids = tokenizer_.encode(prompt, data::AddSpecial::No);
    if (tokenizer_.bos()) ids.insert(ids.begin(), *tokenizer_.bos());
    if (ids.empty())
        return make_error(Errc::InvalidArgument, "the prompt is empty, and the model has no BOS token");
    return continue_tokens(what, ids, std::move(options));
}

Result<std::string> Workspace::answer(const Trainable& what, const std::string& system,
                                      const std::string& user, train::GenerateOptions options) {
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
    return continue_tokens(what, tokenizer_.encode(rendered.text), std::move(options));
}

Result<std::string> Workspace::continue_tokens(const Trainable& what, const std::vector<std::int32_t>& ids,
                                               train::GenerateOptions options) {
    if (tokenizer_.eos()) options.stop.push_back(*tokenizer_.eos());
    FEDLLM_TRY(const auto network,
               client::engine::Network::create(model_.config(), model_.weights(), what.params.manifest(),
                                               what.lora.scale()));
    FEDLLM_TRY(const auto answer, train::generate(pool_, network, what.params, ids, options));
    return tokenizer_.decode(answer);
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
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}) {
        if (!std::filesystem::exists(model_folder / name)) continue;
        FEDLLM_TRY(const std::string text, read_file(model_folder / name));
        FEDLLM_TRY_VOID(write_file_atomically(folder / name, text));
    }
    return model::write_model_folder(folder, workspace.model().config(), what.params,
                                     model::WeightsFormat::BF16);
}

}  // namespace fedllm::tools::local
