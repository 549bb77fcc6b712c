#include "common/base/disk.hpp"

#include "common/base/posix_disk.hpp"

namespace fedllm {
namespace {

thread_local Disk* in_force = nullptr;

}  // namespace

Disk& disk() {
    if (in_force) return *in_force;
    static PosixDisk system;  // has no state
    return system;
}

ScopedDisk::ScopedDisk(Disk& disk) : before_(in_force) { in_force = &disk; }
ScopedDisk::~ScopedDisk() { in_force = before_; }

}  // namespace fedllm
