// Sums of neuron i of a with neuron i of b about pivots.
//
// One pass over both inputs: for each pair of values 2 loads (4 bytes of bfloat16, 8 of float32) and 7 float32
// operations; 5 float64 additions for 8 pairs. On an H200, where 4.3 TB/s are 1.1e12 pairs of bfloat16 a second, that
// is a fifth of the float32 and a fiftieth of the float64 rate, so the loads decide: each thread has 8 of 16 bytes in
// flight.
#include "dtypes.cuh"
#include "launch.h"
#include "paired.h"

namespace univfast::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksAtOnce = 2;  // of a multiprocessor, so that a thread may have 255 registers
constexpr int kTokensAtOnce = 4;  // loads of each input in flight
constexpr int64_t kFewest = 64;   // tokens of a part: fewer would be dearer to add up than to read

// Squares of larger deviations, summed over 1e12 tokens, leave the range of float64.
constexpr double kLargestSquare = 1e296;

template <class T, class Acc, int kCount>
struct PairSums {
    Acc run[kPairRows][kCount];
    double sums[kPairRows][kCount];
    Acc pivot_a[kCount], pivot_b[kCount];

    __device__ void add(const Values<T, kCount>& a, const Values<T, kCount>& b) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const Acc x = static_cast<Acc>(a[i]) - pivot_a[i], y = static_cast<Acc>(b[i]) - pivot_b[i];
            run[kSumX][i] += x;
            run[kSumY][i] += y;
            run[kSumXX][i] += x * x;
            run[kSumYY][i] += y * y;
            run[kSumXY][i] += x * y;
        }
    }

    __device__ void end_run() {
#pragma unroll
        for (int row = 0; row < kPairRows; ++row) {
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                sums[row][i] += static_cast<double>(run[row][i]);
                run[row][i] = 0;
            }
        }
    }
};

template <class Acc>
__device__ void note_bad(Findings* findings, Acc deviation, int64_t token, bool in_b, int64_t neuron) {
    if constexpr (sizeof(Acc) == sizeof(double)) {
        if (!(deviation * deviation < kLargestSquare)) atomicMin(&findings->bad, bad_key(token, in_b, neuron));
    }
}

// A thread has kCount neurons, and block y a part of the tokens.
template <class T, class Acc, int kCount>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) sum_pairs_kernel(const SumParams p) {
    const Batch& batch = p.batch;
    const int64_t neuron = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kCount;
    if (neuron >= batch.neurons || (p.only_redo && p.findings->redo == 0)) return;
    const T* a = static_cast<const T*>(batch.a) + neuron;
    const T* b = static_cast<const T*>(batch.b) + neuron;
    const int64_t runs = (batch.tokens + kRunTokens - 1) / kRunTokens;
    const int64_t begin = blockIdx.y * runs / p.parts * kRunTokens;
    const int64_t end = min((blockIdx.y + int64_t{1}) * runs / p.parts * kRunTokens, batch.tokens);

    PairSums<T, Acc, kCount> s = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        s.pivot_a[i] = static_cast<const Acc*>(p.pivots)[neuron + i];
        s.pivot_b[i] = static_cast<const Acc*>(p.pivots)[batch.neurons + neuron + i];
    }
    for (int64_t token = begin; token < end; token += kRunTokens) {
        if (!batch.keep && token + kRunTokens <= end && sizeof(Acc) == sizeof(float)) {
#pragma unroll
            for (int first = 0; first < kRunTokens; first += kTokensAtOnce) {
                Values<T, kCount> va[kTokensAtOnce], vb[kTokensAtOnce];
#pragma unroll
                for (int t = 0; t < kTokensAtOnce; ++t) {
                    va[t] = Values<T, kCount>::load(a + (token + first + t) * batch.stride_a);
                    vb[t] = Values<T, kCount>::load(b + (token + first + t) * batch.stride_b);
                }
#pragma unroll
                for (int t = 0; t < kTokensAtOnce; ++t) s.add(va[t], vb[t]);
            }
        } else {
            for (int64_t t = token; t < min(token + kRunTokens, end); ++t) {
                if (!batch.uses(t)) continue;
                const auto va = Values<T, kCount>::load(a + t * batch.stride_a);
                const auto vb = Values<T, kCount>::load(b + t * batch.stride_b);
                for (int i = 0; i < kCount; ++i) {
                    note_bad(p.findings, static_cast<Acc>(va[i]) - s.pivot_a[i], t, false, neuron + i);
                    note_bad(p.findings, static_cast<Acc>(vb[i]) - s.pivot_b[i], t, true, neuron + i);
                }
                s.add(va, vb);
            }
        }
        s.end_run();
    }
    double* sums = p.sums + blockIdx.y * kPairRows * batch.neurons + neuron;
    for (int row = 0; row < kPairRows; ++row) {
        for (int i = 0; i < kCount; ++i) sums[row * batch.neurons + i] = s.sums[row][i];
    }
}

using Kernel = void (*)(SumParams);

struct Choice {
    Kernel kernel;
    int count;  // neurons of a thread
};

template <class T>
Choice choose(const Batch& batch, bool in_float64) {
    constexpr int kCount = kPerLoad<T>;
    const bool whole = loads_whole<T>(batch.a, batch.stride_a, batch.neurons, kCount) &&
                       loads_whole<T>(batch.b, batch.stride_b, batch.neurons, kCount);
    if constexpr (std::is_same_v<T, double>) {
        return whole ? Choice{sum_pairs_kernel<T, double, kCount>, kCount} : Choice{sum_pairs_kernel<T, double, 1>, 1};
    } else {
        if (in_float64) return {sum_pairs_kernel<T, double, 1>, 1};
        return whole ? Choice{sum_pairs_kernel<T, float, kCount>, kCount} : Choice{sum_pairs_kernel<T, float, 1>, 1};
    }
}

Choice choose(const Batch& batch, bool in_float64) {
    return with_dtype(batch.dtype, [&](auto type) { return choose<typename decltype(type)::type>(batch, in_float64); });
}

}  // namespace

int64_t pair_parts(const Batch& batch, bool in_float64, int device) {
    const Choice choice = choose(batch, in_float64);
    const int64_t slabs = blocks_for(batch.neurons, int64_t{kThreads} * choice.count);
    const int64_t resident = resident_blocks(choice.kernel, kThreads, 0, device);
    return std::max<int64_t>(1, std::min(resident / slabs, batch.tokens / kFewest));
}

void sum_pairs(const SumParams& params, bool in_float64, const Stream& stream) {
    const Choice choice = choose(params.batch, in_float64);
    const unsigned slabs = blocks_for(params.batch.neurons, int64_t{kThreads} * choice.count);
    launch(choice.kernel, {dim3(slabs, static_cast<unsigned>(params.parts)), kThreads}, stream, params);
}

}  // namespace univfast::cuda
