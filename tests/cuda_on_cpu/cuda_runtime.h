// CUDA as far as the kernels use it, on the CPU: a block's threads are threads, blocks run one after another, and all
// is done when a launch returns. For tests, under sanitizers: a missing barrier is a race here too, and memory that
// is not the caller's is an error.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

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

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

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

inline int setting(const char* name, int otherwise) {
    const char* value = std::getenv(name);
    return value ? std::atoi(value) : otherwise;
}

// A block that runs.
class Block {
    struct Piece {
        unsigned long long low, high;
    };

 public:
    Block(int threads, size_t shared_bytes)
        : shared_((shared_bytes + sizeof(Piece) - 1) / sizeof(Piece)), all_(threads), warps_((threads + 31) / 32) {
        for (size_t warp = 0; warp < warps_.size(); ++warp) {
            warps_[warp] = std::make_unique<Warp>(std::min(32, threads - 32 * static_cast<int>(warp)));
        }
    }

    // As a device leaves it: with anything in it.
    void clear() { std::fill(shared_.begin(), shared_.end(), Piece{~0ull, ~0ull}); }
    unsigned char* shared() { return reinterpret_cast<unsigned char*>(shared_.data()); }
    void wait() { all_.arrive_and_wait(); }
    void wait(int id, int threads) {
        {
            const std::lock_guard lock(mutex_);
            if (!some_[id]) some_[id] = std::make_unique<std::barrier<>>(threads);
        }
        some_[id]->arrive_and_wait();
    }

    // What a lane of the thread's warp has given.
    template <class T>
    T exchange(T value, int lane) {
        Warp& warp = *warps_[threadIdx.x / 32];
        std::memcpy(&warp.values[threadIdx.x % 32], &value, sizeof value);
        warp.barrier.arrive_and_wait();
        T other;
        std::memcpy(&other, &warp.values[lane], sizeof other);
        warp.barrier.arrive_and_wait();
        return other;
    }
    int lanes() const { return warps_[threadIdx.x / 32]->lanes; }

 private:
    struct Warp {
        explicit Warp(int threads) : lanes(threads), barrier(threads) {}
        int lanes;
        std::barrier<> barrier;
        uint64_t values[32] = {};
    };

    std::vector<Piece> shared_;
    std::barrier<> all_;
    std::vector<std::unique_ptr<Warp>> warps_;
    std::mutex mutex_;
    std::unique_ptr<std::barrier<>> some_[16];
};

inline thread_local Block* block = nullptr;

}  // namespace on_cpu

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid value"; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

// Few multiprocessors, so that each block has several tokens; as much shared memory as Hopper has.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrMultiProcessorCount ? on_cpu::setting("ON_CPU_MULTIPROCESSORS", 2)
                                                     : on_cpu::setting("ON_CPU_SHARED_BYTES", 232448);
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
    if (config->dynamicSmemBytes > static_cast<size_t>(on_cpu::setting("ON_CPU_SHARED_BYTES", 232448))) {
        return cudaErrorInvalidValue;
    }
    on_cpu::Block block(threads, config->dynamicSmemBytes);
    std::barrier between(threads, [&]() noexcept { block.clear(); });
    std::vector<std::thread> running;
    for (int thread = 0; thread < threads; ++thread) {
        running.emplace_back([&, thread] {
            on_cpu::block = &block;
            threadIdx = dim3(static_cast<unsigned>(thread), 0, 0);
            blockDim = config->blockDim;
            gridDim = grid;
            for (unsigned y = 0; y < grid.y; ++y) {
                for (unsigned x = 0; x < grid.x; ++x) {
                    blockIdx = dim3(x, y, 0);
                    between.arrive_and_wait();
                    kernel(static_cast<Params>(arguments)...);
                }
            }
        });
    }
    for (std::thread& one : running) one.join();
    return cudaSuccess;
}

// ---- in kernels -----------------------------------------------------------------------------------------

inline void __syncthreads() { on_cpu::block->wait(); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return on_cpu::block->exchange(value, lane);
}

inline unsigned __ballot_sync(unsigned, bool condition) {
    unsigned all = 0;
    for (int lane = 0; lane < on_cpu::block->lanes(); ++lane) {
        all |= static_cast<unsigned>(on_cpu::block->exchange(static_cast<int>(condition), lane)) << lane;
    }
    return all;
}

inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }

template <class T, class Better>
void on_cpu_raise(T* address, T value, const Better& better) {
    std::atomic_ref<T> shared(*address);
    T now = shared.load();
    while (better(value, now) && !shared.compare_exchange_weak(now, value)) {
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
inline void atomicOr(int* address, int value) { std::atomic_ref<int>(*address).fetch_or(value); }

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
