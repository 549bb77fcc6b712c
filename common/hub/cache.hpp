// The cache of models from the Hugging Face hub on this machine, as huggingface_hub lays it out, and models
// by their id in it.
//
//   ROOT/models--ORG--NAME/blobs/ETAG                  contents: sha256 of large files, git's sha1 of others
//                         /snapshots/COMMIT/PATH       links to ../../blobs/ETAG
//                         /refs/REVISION               the commit that a branch or tag stood for
#pragma once

#include <string>
#include <string_view>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::hub {

// "ORG/NAME": letters, digits, '-', '_' and '.', at most 96 in each part, none beginning or ending with '-'
// or '.', no "--" and no "..": as the hub has it. Says nothing about whether there is such a model.
bool is_model_id(std::string_view text);

// HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
Path cache_root();

// ROOT/models--ORG--NAME.
Path model_cache(const Path& root, std::string_view id);

// The snapshot that refs/main names, else the newest with a config.json. NotFound where there is none.
Result<Path> newest_snapshot(const Path& root, std::string_view id);

// What a person may write for a model: a folder that is there, or an id, whose newest snapshot is taken.
// Nothing is ever downloaded here: NotFound says which command does.
Result<Path> find_model(const Path& folder_or_id);

}  // namespace fedllm::hub
