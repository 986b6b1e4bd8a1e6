// The functions of the emulated driver that the emulated NCCL calls.
#pragma once
#include <cstddef>
#include <functional>

// Work that may have to wait for another process: it is tried again until it returns true.
typedef std::function<bool()> Attempt;

extern "C" {
// Counts a call; not zero is the status that the call must return at once, because a test asks for
// its failure.
int emulated_enter(const char *function);
// Whether the `bytes` bytes at `place` are allocated memory of a GPU.
int emulated_is_there(const void *place, size_t bytes);
// Whether the calling thread uses a GPU.
int emulated_has_context();
// Puts work into a stream; not zero if there is no such stream.
int emulated_put(void *stream, const Attempt *attempt);
}
