// Kernels of a few microseconds, a pass over sums of the batch each.
#include <limits>

#include "../moments.h"
#include "../pivots.h"
#include "../shifts.h"
#include "dtypes.cuh"
#include "launch.h"
#include "moments.cuh"

namespace univfast::cuda {
namespace {

constexpr int kThreads = 256;

// float32 rounds each rotated neuron of a token in proportion to the token's size: by about 3e-7 of its root mean
// square over neurons. So r of a rotated neuron with the sum of squares zz is off by at most 3e-7 * sqrt(largest mean
// square of a token / zz), which this ratio keeps below 5e-7.
constexpr double kLargestToken = 3;

// ---- sums of parts --------------------------------------------------------------------------------------

constexpr int kPartThreads = kThreads / kWarp;  // that share the parts of a neuron

// Block y adds a row. The order is fixed.
__global__ void add_parts_kernel(const PartSums p) {
    if (p.only_redo && p.findings->redo == 0) return;
    __shared__ double shared[kPartThreads][kWarp];
    const int column = threadIdx.x % kWarp, group = threadIdx.x / kWarp;
    const int64_t neuron = int64_t{blockIdx.x} * kWarp + column;
    const int64_t set = blockIdx.y / p.rows, row = blockIdx.y % p.rows;
    double sum = 0;
    for (int64_t part = group; part < p.parts && neuron < p.neurons; part += kPartThreads) {
        sum += p.parts_sums[((set * p.parts + part) * p.rows + row) * p.neurons + neuron];
    }
    shared[group][column] = sum;
    __syncthreads();
    if (group > 0 || neuron >= p.neurons) return;
    for (int i = 1; i < kPartThreads; ++i) sum += shared[i][column];
    p.sums[blockIdx.y * p.neurons + neuron] = sum;
}

// ---- central moments ------------------------------------------------------------------------------------

// Rows of a draw. Returns whether float32 held this neuron, and its second moment.
__device__ bool lift_rotated(const LiftParams& p, int64_t neurons, int64_t draw, int64_t i, double z, double tokens,
                             double* second_moment) {
    double& zz = p.sums[(kRotated + 2 * draw) * neurons + i];
    double& xz = p.sums[(kRotated + 2 * draw + 1) * neurons + i];
    const bool well = held_well(z, zz, tokens);
    zz = fmax(0.0, centred(zz, z, z, tokens));
    xz = centred(xz, p.sums[kSumX * neurons + i], z, tokens);
    *second_moment = zz;
    return well;
}

__global__ void __launch_bounds__(kMostRowThreads, 1)
    lift_rotated_kernel(const LiftParams p, const __grid_constant__ Plan plan) {
    if (p.only_redo && p.findings->redo == 0) return;
    __shared__ double shared[kMostRowThreads];
    const int64_t neurons = plan.neurons;
    const double tokens = static_cast<double>(p.findings->tokens);
    const BlockRow<double> row(plan, p.signs, p.room);
    // The sum of rotated deviations is the rotation of their sum.
    row.first([&](int i) { return p.sums[kSumY * neurons + i]; });
    for (int64_t draw = blockIdx.x; draw < p.signs.draws; draw += gridDim.x) {
        const double* z = row.last(draw);
        bool well = true;
        double least = std::numeric_limits<double>::infinity();
        for (int i = threadIdx.x; i < plan.neurons; i += blockDim.x) {
            double own;
            well &= lift_rotated(p, neurons, draw, i, z[place(i)], tokens, &own);
            least = fmin(least, own);
        }
        least = block_reduce(least, shared, [](double x, double y) { return fmin(x, y); });
        const double largest = static_cast<double>(__uint_as_float(p.findings->largest_token));
        well &= largest <= kLargestToken * static_cast<double>(neurons) * least;
        if (p.in_float32 && !well) atomicOr(&p.findings->redo, 1);
        __syncthreads();
    }
}

// Block y has a shift.
__global__ void lift_shifted_kernel(const LiftParams p, int64_t neurons) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= neurons || (p.only_redo && p.findings->redo == 0)) return;
    const int64_t j = partner(i, shift_of(p.shifts, blockIdx.y, neurons), neurons);
    double& xy = p.sums[(kRotated + 2 * p.signs.draws + blockIdx.y) * neurons + i];
    xy = centred(xy, p.sums[kSumX * neurons + i], p.sums[kSumY * neurons + j], static_cast<double>(p.findings->tokens));
}

// The rows of the pairs. Behind the kernels above, which need their sums.
__global__ void lift_pairs_kernel(const LiftParams p, int64_t neurons) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= neurons || (p.only_redo && p.findings->redo == 0)) return;
    const double tokens = static_cast<double>(p.findings->tokens);
    const auto row = [&](int which) -> double& { return p.sums[which * neurons + i]; };
    const ShiftedSums sums = {row(kSumX), row(kSumY), row(kSumXX), row(kSumYY), row(kSumXY)};
    if (p.in_float32 && !(held_well(sums.x, sums.xx, tokens) && held_well(sums.y, sums.yy, tokens))) {
        atomicOr(&p.findings->redo, 1);
    }
    const PairMoments m = lift(sums, p.pivots[i], p.pivots[neurons + i], tokens);
    row(kMeanA) = m.mean_x;
    row(kMeanB) = m.mean_y;
    row(kM2A) = fmax(0.0, m.m2_x);
    row(kM2B) = fmax(0.0, m.m2_y);
    row(kCoAB) = m.c_xy;
}

// ---- the state ------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kMostRowThreads, 1)
    merge_rotated_kernel(const MergeParams p, const __grid_constant__ Plan plan) {
    const double n_1 = p.old_tokens(), n_2 = p.new_tokens();
    const BlockRow<double> row(plan, p.signs, p.room);
    row.first([&](int i) { return p.delta(kMeanB, i); });
    for (int64_t draw = blockIdx.x; draw < p.signs.draws; draw += gridDim.x) {
        const double* z = row.last(draw);
        for (int i = threadIdx.x; i < plan.neurons; i += blockDim.x) {
            const double turned = z[place(i)];
            p.merge_sum(kRotated + 2 * draw, i, between(turned, turned, n_1, n_2));
            p.merge_sum(kRotated + 2 * draw + 1, i, between(p.delta(kMeanA, i), turned, n_1, n_2));
        }
        __syncthreads();
    }
}

// Block y has a shift.
__global__ void merge_shifted_kernel(const MergeParams p) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, neurons = p.batch.neurons;
    if (i >= neurons) return;
    const int64_t j = partner(i, shift_of(p.shifts, blockIdx.y, neurons), neurons);
    p.merge_sum(kRotated + 2 * p.signs.draws + blockIdx.y, i,
                between(p.delta(kMeanA, i), p.delta(kMeanB, j), p.old_tokens(), p.new_tokens()));
}

template <class T>
__device__ void count(const MergeParams& p) {
    Counters counters = *p.before.counters;
    counters.tokens += static_cast<int64_t>(p.new_tokens());
    if (p.findings->bad != kNoBad && counters.bad_token < 0) {
        const int64_t token = static_cast<int64_t>(p.findings->bad >> (kNeuronBits + 1));
        const bool in_b = p.findings->bad >> kNeuronBits & 1;
        const int64_t neuron = static_cast<int64_t>(p.findings->bad & ((1u << kNeuronBits) - 1));
        counters.bad_token = p.first_token + token;
        counters.bad_in_b = in_b;
        counters.bad_neuron = neuron;
        const T* row =
            static_cast<const T*>(in_b ? p.batch.b : p.batch.a) + token * (in_b ? p.batch.stride_b : p.batch.stride_a);
        counters.bad_value = static_cast<double>(widened(row[neuron]));
    }
    *p.after.counters = counters;
}

template <class T>
__global__ void merge_pairs_kernel(const MergeParams p) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i == 0) count<T>(p);
    if (i >= p.batch.neurons) return;
    const double n_1 = p.old_tokens(), n_2 = p.new_tokens();
    const double a = p.delta(kMeanA, i), b = p.delta(kMeanB, i);
    const double* moments = n_1 == 0 && n_2 > 0 ? p.moments : p.before.moments;
    for (const int row : {kMeanA, kMeanB}) {
        const int64_t at = row * p.batch.neurons + i;
        const bool merged = n_1 > 0 && n_2 > 0;
        p.after.moments[at] = merged ? merged_mean(moments[at], p.moments[at], n_1, n_2) : moments[at];
    }
    p.merge_sum(kM2A, i, between(a, a, n_1, n_2));
    p.merge_sum(kM2B, i, between(b, b, n_1, n_2));
    p.merge_sum(kCoAB, i, between(a, b, n_1, n_2));
}

Shape shift_shape(const Shifts& shifts, int64_t neurons) {
    return {dim3(blocks_for(neurons, kThreads), static_cast<unsigned>(shifts.count)), kThreads};
}

}  // namespace

void add_parts(const PartSums& params, int64_t sets, const Stream& stream) {
    const dim3 grid(blocks_for(params.neurons, kWarp), static_cast<unsigned>(sets * params.rows));
    launch(add_parts_kernel, {grid, kThreads}, stream, params);
}

DrawLayout draw_layout(int64_t neurons, int64_t draws, int device) {
    const RowLayout<double> rows(draws, neurons, kMostRowThreads * int64_t{sizeof(double)}, device);
    return {rows, device_plan<double>(neurons, rows.threads)};
}

void lift_moments(const LiftParams& params, const DrawLayout& layout, const Stream& stream) {
    const int64_t neurons = layout.plan.neurons;
    if (params.signs.draws > 0) launch(lift_rotated_kernel, layout.rows.shape(), stream, params, layout.plan);
    if (params.shifts.count > 0)
        launch(lift_shifted_kernel, shift_shape(params.shifts, neurons), stream, params, neurons);
    launch(lift_pairs_kernel, {dim3(blocks_for(neurons, kThreads)), kThreads}, stream, params, neurons);
}

void merge_moments(const MergeParams& params, const DrawLayout& layout, const Stream& stream) {
    if (params.signs.draws > 0) launch(merge_rotated_kernel, layout.rows.shape(), stream, params, layout.plan);
    if (params.shifts.count > 0) {
        launch(merge_shifted_kernel, shift_shape(params.shifts, params.batch.neurons), stream, params);
    }
    with_dtype(params.batch.dtype, [&](auto type) {
        launch(merge_pairs_kernel<typename decltype(type)::type>,
               {dim3(blocks_for(params.batch.neurons, kThreads)), kThreads}, stream, params);
    });
}

}  // namespace univfast::cuda
