// Launches on a device, and CUDA's failures as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "operations.h"

namespace univfast::cuda {

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // so that a later call does not report it again
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// Makes a device current, and the one before current again.
class OnDevice {
 public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    ~OnDevice() { cudaSetDevice(before_); }

 private:
    int before_ = 0;
};

inline int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
}

inline int multiprocessors(int device) { return attribute(cudaDevAttrMultiProcessorCount, device); }

// Bytes of shared memory that a block can have.
inline int64_t most_shared(int device) { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device); }

struct Shape {
    dim3 grid;
    int threads;
    int64_t shared = 0;  // bytes
};

template <class... Params>
void allow_shared(void (*kernel)(Params...), int64_t bytes) {
    constexpr int64_t kWithoutAsking = 32 << 10;  // 48 KiB with the kernel's own
    if (bytes <= kWithoutAsking) return;
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "cudaFuncSetAttribute");
}

// Blocks of a kernel that the device runs side by side.
template <class... Params>
int resident_blocks(void (*kernel)(Params...), int threads, int64_t shared, int device) {
    allow_shared(kernel, shared);
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<size_t>(shared)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    return std::max(1, blocks) * multiprocessors(device);
}

template <class... Params, class... Arguments>
void launch(void (*kernel)(Params...), const Shape& shape, const Stream& stream, Arguments&&... arguments) {
    allow_shared(kernel, shape.shared);
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared);
    config.stream = static_cast<cudaStream_t>(stream.handle);
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "kernel launch");
}

inline unsigned blocks_for(int64_t items, int64_t each) { return static_cast<unsigned>((items + each - 1) / each); }

}  // namespace univfast::cuda
