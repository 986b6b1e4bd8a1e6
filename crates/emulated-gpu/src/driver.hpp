// What the emulated NCCL asks of the emulated driver.
#pragma once
#include <cstddef>
#include <functional>

// Work that may have to wait for another process: it is tried again until it says that it is done.
typedef std::function<bool()> Attempt;

extern "C" {
// Counts a call; what it must answer at once, where a test asks for its failure.
int emulated_enter(const char *function);
// Whether so many bytes of a GPU's memory are allocated there.
int emulated_is_there(const void *place, size_t bytes);
// Whether the calling thread uses a GPU.
int emulated_has_context();
// Puts work into a stream; not zero where there is no such stream.
int emulated_put(void *stream, const Attempt *attempt);
}
