// Where the sums of a batch are taken from: the middle of 16 tokens, which are all that is read.
#include <cmath>
#include <limits>

#include "../pivots.h"
#include "dtypes.cuh"
#include "launch.h"
#include "paired.h"

namespace univfast::cuda {
namespace {

constexpr int kThreads = 256;

// One block. Counts the tokens to use, and finds nothing as yet.
__global__ void begin_kernel(const Batch batch, Findings* findings) {
    __shared__ int64_t counts[kThreads];
    int64_t count = 0;
    for (int64_t t = threadIdx.x; batch.keep && t < batch.tokens; t += kThreads) count += batch.keep[t] != 0;
    counts[threadIdx.x] = count;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int i = 1; i < kThreads; ++i) count += counts[i];
    *findings = {0, 0, kNoBad, batch.keep ? count : batch.tokens};
}

// What the samples of one neuron are sorted with: 16 values in registers.
__device__ void sort(double (&v)[kPivotTokens]) {
#pragma unroll
    for (int round = 0; round < kPivotTokens; ++round) {
#pragma unroll
        for (int i = round % 2; i + 1 < kPivotTokens; i += 2) {
            const double low = fmin(v[i], v[i + 1]);
            v[i + 1] = fmax(v[i], v[i + 1]);
            v[i] = low;
        }
    }
}

// The mean of the middle half of some tokens' values: exactly the value where all are equal, as on the CPU.
template <class T>
__global__ void pivots_kernel(const Batch batch, float* in_float32, double* in_float64) {
    const int64_t neuron = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (neuron >= batch.neurons) return;
    const bool of_b = blockIdx.y == 1;
    const T* x = static_cast<const T*>(of_b ? batch.b : batch.a) + neuron;
    const int64_t stride = of_b ? batch.stride_b : batch.stride_a;
    const int64_t shares = min(int64_t{kPivotTokens}, batch.tokens);
    double v[kPivotTokens];
    int samples = 0;
#pragma unroll
    for (int i = 0; i < kPivotTokens; ++i) {
        v[i] = std::numeric_limits<double>::infinity();
        if (i >= shares) continue;
        const int64_t end = (i + 1) * batch.tokens / shares;
        int64_t token = sampled_token(i, shares, batch.tokens);
        while (token < end && !batch.uses(token)) ++token;
        if (token == end) continue;
        const double value = static_cast<double>(widened(x[token * stride]));
        v[i] = std::isfinite(value) ? value : 0;  // a bad value is found later, and must not hide behind its pivot
        ++samples;
    }
    sort(v);
    const int skipped = samples / 4, last = samples - skipped;
    double lowest = 0, sum = 0;
#pragma unroll
    for (int i = 0; i < kPivotTokens; ++i) {
        if (i == skipped && samples > 0) lowest = v[i];
        if (i >= skipped && i < last) sum += v[i] - lowest;
    }
    double pivot = lowest + sum / max(1, last - skipped);
    if constexpr (!std::is_same_v<T, double>) pivot = static_cast<double>(static_cast<float>(pivot));
    const int64_t at = blockIdx.y * batch.neurons + neuron;
    in_float32[at] = static_cast<float>(pivot);
    in_float64[at] = pivot;
}

}  // namespace

void take_pivots(const Batch& batch, Findings* findings, float* in_float32, double* in_float64, const Stream& stream) {
    launch(begin_kernel, {dim3(1), kThreads}, stream, batch, findings);
    with_dtype(batch.dtype, [&](auto type) {
        launch(pivots_kernel<typename decltype(type)::type>, {dim3(blocks_for(batch.neurons, kThreads), 2), kThreads},
               stream, batch, in_float32, in_float64);
    });
}

}  // namespace univfast::cuda
