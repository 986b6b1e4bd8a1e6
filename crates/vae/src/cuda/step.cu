// All kernels of a step, in the order in which they need each other. To be compiled with --fmad=false.

#ifndef SHARED
#define SHARED(type, name, sizes) __shared__ type name sizes
#endif

#include "functions.cuh"
#include "noise.cuh"
#include "step.cuh"
#include "product.cuh"
#include "tensor.cuh"
#include "layers.cu"
#include "latent.cu"
#include "importance.cu"
#include "gradients.cu"
#include "sums.cu"
#include "update.cu"
#include "digest.cu"
