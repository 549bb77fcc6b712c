// File descriptors: how many this process may have, and one that is kept for the day when there is none.
#pragma once

#include <cstddef>

namespace fedllm::server::edge {

// Raises the soft limit to the hard one and returns it.
std::size_t raise_descriptor_limit();

// How many connections that leaves room for: each may need a second descriptor for what it uploads, and the
// ledger, versions and logs need some.
std::size_t connections_within(std::size_t descriptors);

// When none is left, nobody can be accepted, and so nobody can be turned away either: the connection waits in
// the kernel's queue and wakes us for ever. The spare one lets us take it and close it.
class SpareDescriptor {
public:
    SpareDescriptor();
    ~SpareDescriptor();
    SpareDescriptor(const SpareDescriptor&) = delete;
    SpareDescriptor& operator=(const SpareDescriptor&) = delete;

    // Turns away one connection that waits on the listening socket `acceptor`.
    void turn_one_away(int acceptor);

private:
    int held_ = -1;
};

}  // namespace fedllm::server::edge
