#include "client/update/update_store.hpp"

#include <cmath>

#include "client/update/file_name.hpp"
#include "common/config/yaml.hpp"
#include "common/crypto/sha256.hpp"

namespace fedllm::client::update {
namespace {

struct Sidecar {
    std::string task;
    Claim claim;
};

const config::Table<Sidecar>& sidecar_table() {
    using C = Sidecar;
    using config::field;
    static const config::Table<C> table{
        field<C>("task", [](auto& c) -> auto& { return c.task; }, "", {.required = true}),
        field<C>("digest", [](auto& c) -> auto& { return c.claim.digest; }, "", {.required = true}),
        field<C>("bytes", [](auto& c) -> auto& { return c.claim.bytes; }, "", {.required = true}),
        field<C>("samples", [](auto& c) -> auto& { return c.claim.samples; }, "", {.required = true}),
        field<C>("tokens", [](auto& c) -> auto& { return c.claim.tokens; }, "", {.required = true}),
        field<C>("train_loss", [](auto& c) -> auto& { return c.claim.train_loss; }, "", {.required = true}),
        field<C>("train_seconds", [](auto& c) -> auto& { return c.claim.train_seconds; }, "",
                 {.required = true}),
        field<C>("update_norm", [](auto& c) -> auto& { return c.claim.update_norm; }, "", {.required = true}),
        field<C>("evaluation.loss_sum", [](auto& c) -> auto& { return c.claim.evaluation.loss_sum; }, "",
                 {.required = true}),
        field<C>("evaluation.tokens", [](auto& c) -> auto& { return c.claim.evaluation.tokens; }, "",
                 {.required = true}),
        field<C>("codec", [](auto& c) -> auto& { return c.claim.codec; }, "", {.required = true}),
        field<C>("quantisation_error", [](auto& c) -> auto& { return c.claim.quantisation_error; }, "",
                 {.required = true}),
        field<C>("residual_norm", [](auto& c) -> auto& { return c.claim.residual_norm; }, "",
                 {.required = true}),
    };
    return table;
}

Result<Claim> read(const Path& sidecar, const Path& update, const TaskId& task) {
    FEDLLM_TRY(const Sidecar found, config::load_yaml(sidecar, sidecar_table()));
    FEDLLM_TRY(const MappedFile file, MappedFile::open(update));
    if (found.task != task.get() || file.bytes().size() != found.claim.bytes ||
        crypto::to_hex(crypto::sha256(file.bytes())) != found.claim.digest) {
        return make_error(Errc::DigestMismatch,
                          update.string() + ": not the update that its sidecar describes");
    }
    return found.claim;
}

}  // namespace

Result<UpdateStore> UpdateStore::open(const Path& folder) {
    FEDLLM_TRY_VOID(make_directories(folder));
    FEDLLM_TRY(ResidualStore residuals, ResidualStore::open(folder / "residuals"));
    return UpdateStore(folder, std::move(residuals));
}

Path UpdateStore::path(const TaskId& task, const char* extension) const {
    return folder_ / (plain_file_name(task.get()) + extension);
}

Result<void> UpdateStore::save(const TaskId& task, const Claim& claim,
                               std::span<const std::byte> bytes) const {
    FEDLLM_TRY_VOID(write_file_atomically(path(task, ".update"), bytes));
    return write_file_atomically(path(task, ".yaml"),
                                 config::print_yaml(Sidecar{task.get(), claim}, sidecar_table()));
}

std::optional<Claim> UpdateStore::find(const TaskId& task) const {
    const auto claim = read(path(task, ".yaml"), path(task, ".update"), task);
    if (claim) return *claim;
    drop(task);
    return std::nullopt;
}

Result<MappedFile> UpdateStore::map(const TaskId& task) const {
    return MappedFile::open(path(task, ".update"));
}

void UpdateStore::drop(const TaskId& task) const {
    // What cannot be removed is found damaged or refused as stale later.
    static_cast<void>(disk().remove(path(task, ".yaml")));  // first: without it the update does not exist
    static_cast<void>(disk().remove(path(task, ".update")));
}

void UpdateStore::drop_all_but(const TaskId& task) const {
    const Path kept = path(task, "");
    const auto names = disk().list(folder_);
    if (!names) return;
    for (const std::string& name : *names) {
        if (Path(name).stem() == kept.filename()) continue;
        const auto found = disk().find(folder_ / name);
        if (found && *found && (*found)->kind == Disk::Status::Kind::File)
            static_cast<void>(disk().remove(folder_ / name));
    }
}

}  // namespace fedllm::client::update
