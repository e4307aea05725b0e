// What the kernels need of the device beyond the language, in one place: tests run the kernels on the CPU by putting
// another file of this name, and of CUDA's own headers, before it.
#pragma once

#include <cuda_runtime.h>

namespace univfast::cuda {

constexpr int kWarp = 32;

// The block's dynamic shared memory.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}

// A barrier of some of a block's warps: `threads` of them, a multiple of kWarp. `id` is 1 to 15; 0 is __syncthreads.
__device__ inline void barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace univfast::cuda
