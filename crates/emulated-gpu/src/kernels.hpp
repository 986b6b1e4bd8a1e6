// The kernels by name, as in a module of the driver.
#pragma once
#include <functional>

#include "simt.hpp"

struct Launch {
    dim3 grid, block;
};

// Copies the arguments that the pointers point to, and returns the work that runs the kernel with
// them later.
typedef std::function<std::function<void()>(void **arguments, Launch)> Kernel;

// Null if there is no kernel of that name.
const Kernel *kernel_named(const char *name);
