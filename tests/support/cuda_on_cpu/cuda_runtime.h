// CUDA as far as the kernels use it, on the CPU: a block's threads are fibers, blocks run one after another, and all
// is done when a launch returns. For tests, under sanitizers: a missing barrier is a race here too, and memory that
// is not the caller's is an error.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "fibers.h"

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
    unsigned x = 1, y = 1, z = 1;

    dim3() = default;
    explicit dim3(unsigned columns, unsigned rows = 1, unsigned layers = 1) : x(columns), y(rows), z(layers) {}
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- the device -----------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

namespace on_cpu {

// Of the environment.
inline int setting(const char* name, int otherwise) {
    const char* value = std::getenv(name);
    return value ? std::atoi(value) : otherwise;
}

// Few, so that each block has several tokens.
inline int multiprocessors() { return setting("ON_CPU_MULTIPROCESSORS", 2); }

// Of a block; otherwise as much as Hopper has.
inline int shared_bytes() { return setting("ON_CPU_SHARED_BYTES", 232448); }

// Whether the last block and the last thread begin: what is computed must not depend on it.
inline bool backwards() { return setting("ON_CPU_BACKWARDS", 0) != 0; }

// The number of a barrier that puts nothing in order, for tests of the tests; -1: none.
inline int barrier_left_out() { return setting("ON_CPU_WITHOUT_BARRIER", -1); }

inline Fibers fibers;

// What the threads of a block share.
class Block {
 public:
    Block(int threads, size_t shared_bytes)
        : threads_(threads),
          shared_bytes_(shared_bytes),
          shared_(static_cast<unsigned char*>(::operator new(shared_bytes, kAligned))),
          warps_(static_cast<size_t>((threads + 31) / 32)),
          left_out_(barrier_left_out()) {}

    // As a device leaves it: with anything in it.
    void clear() { std::memset(shared(), 0xff, shared_bytes_); }
    unsigned char* shared() { return shared_.get(); }

    // A barrier of some of the threads; all of them have number 0.
    void wait(int id, int threads) {
        if (id != left_out_) wait(barriers_[id], threads);
    }
    void wait() { wait(0, threads_); }

    // The lanes of the thread's warp each give a value, and read what they want of all.
    template <class T, class Read>
    auto exchange(T value, const Read& read) {
        Warp& warp = warps_[threadIdx.x / 32];
        std::memcpy(&warp.values[threadIdx.x % 32], &value, sizeof value);
        wait(warp.barrier, lanes());
        const auto result = read([&](int lane) {
            T other;
            std::memcpy(&other, &warp.values[lane], sizeof other);
            return other;
        });
        wait(warp.barrier, lanes());
        return result;
    }
    int lanes() const { return std::min(32, threads_ - static_cast<int>(threadIdx.x) / 32 * 32); }

 private:
    static constexpr std::align_val_t kAligned{16};

    struct Delete {
        void operator()(unsigned char* data) const { ::operator delete(data, kAligned); }
    };

    struct Barrier {
        int arrived = 0;
        unsigned passed = 0;  // how often
        char order[2] = {};   // in turn, as some come to the next one before all have left this one
    };

    struct Warp {
        Barrier barrier;
        uint64_t values[32] = {};
    };

    ON_CPU_UNSEEN static void wait(Barrier& barrier, int threads) {
        const unsigned passed = barrier.passed;
        release(&barrier.order[passed % 2]);
        if (++barrier.arrived == threads) {
            barrier.arrived = 0;
            ++barrier.passed;
        } else {
            fibers.wait_while(barrier.passed, passed);
        }
        acquire(&barrier.order[passed % 2]);
    }

    int threads_;
    size_t shared_bytes_;
    std::unique_ptr<unsigned char, Delete> shared_;
    std::vector<Warp> warps_;
    Barrier barriers_[16];
    int left_out_;
};

inline Block* block = nullptr;
inline std::mutex one_launch;

}  // namespace on_cpu

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid value"; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrMultiProcessorCount ? on_cpu::multiprocessors() : on_cpu::shared_bytes();
    return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
    *blocks = 1;
    return cudaSuccess;
}

template <class... Params, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Arguments&&... arguments) {
    const dim3 grid = config->gridDim;
    const int threads = static_cast<int>(config->blockDim.x);
    if (threads < 1 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.y > 65535) return cudaErrorInvalidValue;
    if (config->dynamicSmemBytes > static_cast<size_t>(on_cpu::shared_bytes())) return cudaErrorInvalidValue;
    const std::lock_guard lock(on_cpu::one_launch);
    on_cpu::Block block(threads, config->dynamicSmemBytes);
    on_cpu::block = &block;
    blockDim = config->blockDim;
    gridDim = grid;
    const bool backwards = on_cpu::backwards();
    const uint64_t blocks = uint64_t{grid.x} * grid.y;
    for (uint64_t i = 0; i < blocks; ++i) {
        const uint64_t number = backwards ? blocks - 1 - i : i;
        blockIdx = dim3(static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x));
        block.clear();
        on_cpu::fibers.run(threads, backwards, threadIdx.x, [&] { kernel(static_cast<Params>(arguments)...); });
    }
    return cudaSuccess;
}

// ---- in kernels -----------------------------------------------------------------------------------------

inline void __syncthreads() { on_cpu::block->wait(); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return on_cpu::block->exchange(value, [&](const auto& of_lane) { return of_lane(lane); });
}

inline unsigned __ballot_sync(unsigned, bool condition) {
    return on_cpu::block->exchange(condition, [](const auto& of_lane) {
        unsigned all = 0;
        for (int lane = 0; lane < on_cpu::block->lanes(); ++lane) all |= static_cast<unsigned>(of_lane(lane)) << lane;
        return all;
    });
}

inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }

template <class T, class Better>
void on_cpu_raise(T* address, T value, const Better& better) {
    std::atomic_ref<T> shared(*address);
    T now = shared.load(std::memory_order_relaxed);
    while (better(value, now) && !shared.compare_exchange_weak(now, value, std::memory_order_relaxed)) {
    }
}

template <class T>
void atomicMin(T* address, T value) {
    on_cpu_raise(address, value, [](T a, T b) { return a < b; });
}
template <class T>
void atomicMax(T* address, T value) {
    on_cpu_raise(address, value, [](T a, T b) { return a > b; });
}
inline void atomicOr(int* address, int value) {
    std::atomic_ref<int>(*address).fetch_or(value, std::memory_order_relaxed);
}

template <class T, class U>
auto min(T a, U b) {
    using Both = std::common_type_t<T, U>;
    return std::min<Both>(a, b);
}
template <class T, class U>
auto max(T a, U b) {
    using Both = std::common_type_t<T, U>;
    return std::max<Both>(a, b);
}
