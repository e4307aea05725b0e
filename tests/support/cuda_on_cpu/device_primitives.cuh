#pragma once

#include <cuda_runtime.h>

namespace univfast::cuda {

constexpr int kWarp = 32;

inline unsigned char* shared_memory() { return on_cpu::block->shared(); }

inline void barrier(int id, int threads) { on_cpu::block->wait(id, threads); }

}  // namespace univfast::cuda
