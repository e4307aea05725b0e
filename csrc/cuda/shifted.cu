// Sums of products of neuron i of a with wrong partners in b, about pivots.
//
// A thread stands at one place of the layer, and has kLeads values of a and kLags of b, whose products are those of so
// many shifts: for 20 of them 9 loads, which come from L2, as others have read them before, and lie side by side for
// neighbouring threads. Each product is that of another neuron of a, so sums are stored where that neuron is.
#include "../shifts.h"
#include "dtypes.cuh"
#include "launch.h"
#include "paired.h"

namespace univfast::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksAtOnce = 3;  // of a multiprocessor, so that a thread may have 168 registers
constexpr int kLeads = 4;
constexpr int64_t kFewest = 64;  // tokens of a part: fewer would be dearer to add up than to read

template <class Acc, int kLags>
struct CellSums {
    Acc run[kLeads][kLags];
    double sums[kLeads][kLags];

    __device__ void end_run() {
#pragma unroll
        for (int u = 0; u < kLeads; ++u) {
#pragma unroll
            for (int v = 0; v < kLags; ++v) {
                sums[u][v] += static_cast<double>(run[u][v]);
                run[u][v] = 0;
            }
        }
    }
};

// A value of a row, about its pivot.
template <class T, class Acc>
struct Value {
    const T* at;
    Acc pivot;

    __device__ void set(const void* rows, const void* pivots, int64_t neuron) {
        at = static_cast<const T*>(rows) + neuron;
        pivot = static_cast<const Acc*>(pivots)[neuron];
    }
    __device__ Acc of(int64_t token, int64_t stride) const {
        return static_cast<Acc>(widened(at[token * stride])) - pivot;
    }
};

// Block y has a part of the tokens and kLeads leads. Leads that are not there are read as the last one.
template <class T, class Acc, int kLags>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) sum_shifted_kernel(const SumParams p, const Shifts shifts) {
    const Batch& batch = p.batch;
    const int64_t place = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, n = batch.neurons;
    if (place >= n || (p.only_redo && p.findings->redo == 0)) return;
    const int64_t leads = lead_count(shifts), first = blockIdx.y / p.parts * kLeads, part = blockIdx.y % p.parts;
    const int64_t runs = (batch.tokens + kRunTokens - 1) / kRunTokens;
    const int64_t begin = part * runs / p.parts * kRunTokens;
    const int64_t end = min((part + 1) * runs / p.parts * kRunTokens, batch.tokens);

    Value<T, Acc> a[kLeads], b[kLags];
    int64_t neuron[kLeads];
#pragma unroll
    for (int u = 0; u < kLeads; ++u) {
        neuron[u] = partner(place, n - shifts.leads[min(first + u, leads - 1)], n);
        a[u].set(batch.a, p.pivots, neuron[u]);
    }
#pragma unroll
    for (int v = 0; v < kLags; ++v) {
        b[v].set(batch.b, static_cast<const Acc*>(p.pivots) + n, partner(place, shifts.lags[v], n));
    }
    CellSums<Acc, kLags> s = {};
    for (int64_t token = begin; token < end; token += kRunTokens) {
        for (int64_t t = token; t < min(token + kRunTokens, end); ++t) {
            if (!batch.uses(t)) continue;
            Acc x[kLeads];
#pragma unroll
            for (int u = 0; u < kLeads; ++u) x[u] = a[u].of(t, batch.stride_a);
#pragma unroll
            for (int v = 0; v < kLags; ++v) {
                const Acc y = b[v].of(t, batch.stride_b);
#pragma unroll
                for (int u = 0; u < kLeads; ++u) s.run[u][v] += x[u] * y;
            }
        }
        s.end_run();
    }
    double* sums = p.sums + part * shifts.count * n;
#pragma unroll
    for (int u = 0; u < kLeads; ++u) {
#pragma unroll
        for (int v = 0; v < kLags; ++v) {
            const int64_t d = (first + u) * kLags + v;
            if (first + u < leads && d < shifts.count) sums[d * n + neuron[u]] = s.sums[u][v];
        }
    }
}

using Kernel = void (*)(SumParams, Shifts);

template <class T, class Acc>
Kernel with_lags(int64_t lag_count) {
    return lag_count == 1 ? sum_shifted_kernel<T, Acc, 1> : sum_shifted_kernel<T, Acc, kSharedLags>;
}

Kernel choose(const Batch& batch, const Shifts& shifts, bool in_float64) {
    return with_dtype(batch.dtype, [&](auto type) -> Kernel {
        using T = typename decltype(type)::type;
        if constexpr (std::is_same_v<T, double>) {
            return with_lags<T, double>(shifts.lag_count);
        } else {
            return in_float64 ? with_lags<T, double>(shifts.lag_count) : with_lags<T, float>(shifts.lag_count);
        }
    });
}

unsigned slabs(const Batch& batch) { return blocks_for(batch.neurons, kThreads); }
unsigned cells(const Shifts& shifts) { return blocks_for(lead_count(shifts), kLeads); }

}  // namespace

int64_t shifted_parts(const Batch& batch, const Shifts& shifts, bool in_float64, int device) {
    if (shifts.count == 0) return 0;
    const int64_t resident = resident_blocks(choose(batch, shifts, in_float64), kThreads, 0, device);
    return std::max<int64_t>(1, std::min(resident / (int64_t{slabs(batch)} * cells(shifts)), batch.tokens / kFewest));
}

void sum_shifted(const SumParams& params, const Shifts& shifts, bool in_float64, const Stream& stream) {
    const dim3 grid(slabs(params.batch), static_cast<unsigned>(params.parts) * cells(shifts));
    launch(choose(params.batch, shifts, in_float64), {grid, kThreads}, stream, params, shifts);
}

}  // namespace univfast::cuda
