// The kernels by name, as a module of the driver has them.
#pragma once
#include <functional>

#include "simt.hpp"

struct Launch {
    dim3 grid, block;
};

// Copies the arguments that the pointers are at, and gives the work to be done with them later.
typedef std::function<std::function<void()>(void **arguments, Launch)> Kernel;

// Null where there is none of that name.
const Kernel *kernel_named(const char *name);
