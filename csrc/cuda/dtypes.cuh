// The dtype switch of the kernels.
#pragma once

#include <type_traits>

#include "numbers.cuh"
#include "operations.h"

namespace univfast::cuda {

template <class T>
struct Type {
    using type = T;
};

// use(Type<T>()) with the T of a dtype.
template <class Use>
auto with_dtype(DType dtype, const Use& use) {
    switch (dtype) {
        case DType::float64:
            return use(Type<double>());
        case DType::float32:
            return use(Type<float>());
        case DType::float16:
            return use(Type<__half>());
        default:
            return use(Type<__nv_bfloat16>());
    }
}

template <class T>
__host__ __device__ bool loads_whole(const void* data, int64_t stride, int64_t neurons, int64_t count) {
    return reinterpret_cast<uintptr_t>(data) % kLoadBytes == 0 && stride % kPerLoad<T> == 0 && neurons % count == 0;
}

}  // namespace univfast::cuda
