// Activations of any dtype, as float32 or float64: one by one, or some that lie side by side.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <device_primitives.cuh>

namespace univfast::cuda {

__device__ inline float widened(float value) { return value; }
__device__ inline double widened(double value) { return value; }
__device__ inline float widened(__half value) { return __half2float(value); }
__device__ inline float widened(__nv_bfloat16 value) { return __bfloat162float(value); }

constexpr int kLoadBytes = 16;  // the widest load of a thread

template <class T>
constexpr int kPerLoad = kLoadBytes / static_cast<int>(sizeof(T));

// kCount values that lie side by side; aligned to kLoadBytes where they fill loads.
template <class T, int kCount>
struct Values {
    T values[kCount];

    __device__ static Values load(const T* p) {
        Values loaded;
        if constexpr (kCount % kPerLoad<T> == 0) {
#pragma unroll
            for (int i = 0; i < kCount; i += kPerLoad<T>) {
                const uint4 word = *reinterpret_cast<const uint4*>(p + i);
                memcpy(loaded.values + i, &word, kLoadBytes);
            }
        } else {
#pragma unroll
            for (int i = 0; i < kCount; ++i) loaded.values[i] = p[i];
        }
        return loaded;
    }

    __device__ auto operator[](int i) const { return widened(values[i]); }
};

}  // namespace univfast::cuda
