#include "common/service/private_files.hpp"

#include <sys/stat.h>

#include <string>

namespace fedllm::service {

Result<void> keep_private(const Path& state_directory) {
    ::umask(S_IRWXG | S_IRWXO);
    struct stat facts {};
    if (::stat(state_directory.c_str(), &facts) != 0) return {};  // made later, under this umask
    if ((facts.st_mode & (S_IRWXG | S_IRWXO)) == 0) return {};
    if (::chmod(state_directory.c_str(), S_IRWXU) == 0) return {};
    return make_error(Errc::PermissionDenied, state_directory.string() +
                                                  ": others can read what is kept here; its owner must run: "
                                                  "chmod 700 " +
                                                  state_directory.string());
}

}  // namespace fedllm::service
