// Paired moments of a batch: pivots, sums (paired.cu, rotated.cu), central moments of them, and the state that takes
// them in. Everything is decided on the device: the kernels that sum in float64 are queued behind those that sum in
// float32, and return at once where these held the batch.
#include <cmath>
#include <limits>

#include "../moments.h"
#include "../pivots.h"
#include "../workspace.h"
#include "dtypes.cuh"
#include "launch.h"
#include "paired.h"
#include "vectors.cuh"

namespace univfast::cuda {
namespace {

constexpr int kThreads = 256;

// Rows of moments [5 + 2 * draws, neurons].
enum MomentRow { kMeanA, kMeanB, kM2A, kM2B, kCoAB, kRotated };

// float32 rounds each rotated neuron of a token in proportion to the token's size: by about 3e-7 of its root mean
// square over neurons. So r of a rotated neuron with the sum of squares zz is off by at most 3e-7 * sqrt(largest mean
// square of a token / zz), which this ratio keeps below 5e-7.
constexpr double kLargestToken = 3;

// ---- pivots ---------------------------------------------------------------------------------------------

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

// ---- sums of parts --------------------------------------------------------------------------------------

// Partial sums [sets, parts, rows, neurons] -> [sets * rows, neurons].
struct PartSums {
    const double* parts_sums;
    int64_t parts;
    int rows;
    int64_t neurons;
    double* sums;
    const Findings* findings;
    bool only_redo;
};

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

struct LiftParams {
    double* sums;          // [5 + 2 * draws, neurons], of SumRow and RotatedRow; central moments when done
    const double* pivots;  // [2, neurons]
    Signs signs;
    Findings* findings;
    RowRoom<double> room;
    bool only_redo;
    bool in_float32;  // see whether that held the batch
};

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
    __shared__ double smallest[kMostRowThreads];
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
        smallest[threadIdx.x] = least;
        __syncthreads();
        for (unsigned left = blockDim.x; left > 1; left = (left + 1) / 2) {
            const unsigned other = threadIdx.x + (left + 1) / 2;
            if (other < left) smallest[threadIdx.x] = fmin(smallest[threadIdx.x], smallest[other]);
            __syncthreads();
        }
        const double largest = static_cast<double>(__uint_as_float(p.findings->largest_token));
        well &= largest <= kLargestToken * static_cast<double>(neurons) * smallest[0];
        if (p.in_float32 && !well) atomicOr(&p.findings->redo, 1);
        __syncthreads();
    }
}

// The rows of the pairs. Behind lift_rotated_kernel, which needs their sums.
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

struct MergeParams {
    Batch batch;
    const double* moments;  // of the batch
    PairedState before, after;
    const Findings* findings;
    Signs signs;
    RowRoom<double> room;
    int64_t first_token;

    // 0 leaves the batch out.
    __device__ double new_tokens() const {
        return findings->bad == kNoBad ? static_cast<double>(findings->tokens) : 0.0;
    }
    __device__ double old_tokens() const { return static_cast<double>(before.counters->tokens); }
    __device__ double delta(int row, int64_t i) const {
        return moments[row * batch.neurons + i] - before.moments[row * batch.neurons + i];
    }

    // One row of the state, where `more` is what the distance of the means adds.
    __device__ void merge_sum(int64_t row, int64_t i, double more) const {
        const int64_t at = row * batch.neurons + i;
        if (new_tokens() == 0) {
            after.moments[at] = before.moments[at];
        } else if (old_tokens() == 0) {
            after.moments[at] = moments[at];
        } else {
            after.moments[at] = before.moments[at] + moments[at] + more;
        }
    }
};

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

__device__ double value_at(const Batch& batch, int64_t token, bool in_b, int64_t neuron) {
    const void* x = in_b ? batch.b : batch.a;
    const int64_t at = token * (in_b ? batch.stride_b : batch.stride_a) + neuron;
    switch (batch.dtype) {
        case DType::float64:
            return static_cast<const double*>(x)[at];
        case DType::float32:
            return widened(static_cast<const float*>(x)[at]);
        case DType::float16:
            return widened(static_cast<const __half*>(x)[at]);
        default:
            return widened(static_cast<const __nv_bfloat16*>(x)[at]);
    }
}

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
        counters.bad_value = value_at(p.batch, token, in_b, neuron);
    }
    *p.after.counters = counters;
}

__global__ void merge_pairs_kernel(const MergeParams p) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i == 0) count(p);
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

// ---- all of it ------------------------------------------------------------------------------------------

// How the sums of a batch are divided, in one precision.
struct Division {
    bool in_float64;
    int64_t pair_parts;
    RotatedLayout first, others;  // of the first draw and of all others
    int64_t draws;

    Division(const Batch& batch, int64_t all_draws, bool float64, int device)
        : in_float64(float64), pair_parts(0), first{}, others{}, draws(all_draws) {
        if (draws > 0) first = rotated_layout(batch, float64, 1, device);
        if (draws > 1) others = rotated_layout(batch, float64, draws - 1, device);
        pair_parts = first.pairs ? first.parts : cuda::pair_parts(batch, float64, device);
    }

    int64_t pair_values() const { return pair_parts * kPairRows; }
    int64_t rotated_values() const {
        return (first.parts + std::max<int64_t>(0, draws - 1) * others.parts) * kRotatedRows;
    }
    int64_t buffer_bytes() const {
        const auto of = [](const RotatedLayout& l, int64_t d) {
            return l.teams ? l.parts / l.teams * d * l.buffers : 0;
        };
        return std::max(of(first, 1), of(others, draws - 1));
    }
};

// What a call holds of the workspace.
struct Pieces {
    Findings* findings;
    float* pivots_float32;   // [2, neurons]
    double* pivots_float64;  // [2, neurons]
    double* sums;            // [5 + 2 * draws, neurons]
    double* pair_sums;
    double* rotated_sums;
    std::byte* buffers;
    double* draw_rows;
};

// Of the kernels that rotate the sums, a block a draw or some.
RowLayout<double> draw_layout(int64_t neurons, int64_t draws, int device) {
    return {draws, neurons, kMostRowThreads * int64_t{sizeof(double)}, device};
}

// take(type, count) of all pieces, in order: to measure them, and to have them.
template <class Take>
void for_pieces(const Batch& batch, int64_t draws, int device, const Take& take) {
    const int64_t n = batch.neurons;
    const bool narrow = batch.dtype != DType::float64;
    const Division last(batch, draws, true, device);
    const Division first = narrow ? Division(batch, draws, false, device) : last;
    take(&Pieces::findings, 1);
    take(&Pieces::pivots_float32, 2 * n);
    take(&Pieces::pivots_float64, 2 * n);
    take(&Pieces::sums, (kRotated + 2 * draws) * n);
    take(&Pieces::pair_sums, std::max(first.pair_values(), last.pair_values()) * n);
    take(&Pieces::rotated_sums, std::max(first.rotated_values(), last.rotated_values()) * n);
    take(&Pieces::buffers, std::max(first.buffer_bytes(), last.buffer_bytes()));
    take(&Pieces::draw_rows, draw_layout(n, draws, device).buffers);
}

class PairedUpdate {
 public:
    PairedUpdate(const PairedUpdateParams& params, const Batch& batch, const Stream& stream)
        : p_(params),
          batch_(batch),
          stream_(stream),
          layout_(draw_layout(batch.neurons, params.signs.draws, stream.device)),
          plan_(device_plan<double>(batch.neurons, layout_.threads)) {
        Workspace workspace(params.workspace, params.workspace_size);
        for_pieces(batch, params.signs.draws, stream.device,
                   [&]<class T>(T* Pieces::* piece, int64_t count) { pieces_.*piece = workspace.take<T>(count); });
        if (layout_.buffers) room_.buffers = pieces_.draw_rows;
    }

    void run() const {
        const int64_t neurons = batch_.neurons;
        launch(begin_kernel, {dim3(1), kThreads}, stream_, batch_, pieces_.findings);
        with_dtype(batch_.dtype, [&](auto type) {
            launch(pivots_kernel<typename decltype(type)::type>, {dim3(blocks_for(neurons, kThreads), 2), kThreads},
                   stream_, batch_, pieces_.pivots_float32, pieces_.pivots_float64);
        });
        const bool narrow = batch_.dtype != DType::float64;
        if (narrow) sum(false);
        sum(true);
        const MergeParams merging = {batch_,           pieces_.sums, p_.before, p_.after,
                                     pieces_.findings, p_.signs,     room_,     p_.first_token};
        if (p_.signs.draws > 0) launch(merge_rotated_kernel, layout_.shape(), stream_, merging, plan_);
        launch(merge_pairs_kernel, {dim3(blocks_for(neurons, kThreads)), kThreads}, stream_, merging);
    }

 private:
    // In float64, of a batch of another dtype, only where float32 did not hold it.
    void sum(bool in_float64) const {
        const Division division(batch_, p_.signs.draws, in_float64, stream_.device);
        const bool only_redo = in_float64 && batch_.dtype != DType::float64;
        const void* pivots = in_float64 ? static_cast<const void*>(pieces_.pivots_float64) : pieces_.pivots_float32;
        const SumParams pairs = {batch_, pivots, pieces_.pair_sums, division.pair_parts, pieces_.findings, only_redo};
        const auto add_parts = [&](const double* parts_sums, int64_t parts, int64_t sets, int rows, int64_t first_row) {
            launch(add_parts_kernel,
                   {dim3(blocks_for(batch_.neurons, kWarp), static_cast<unsigned>(sets * rows)), kThreads}, stream_,
                   PartSums{parts_sums, parts, rows, batch_.neurons, pieces_.sums + first_row * batch_.neurons,
                            pieces_.findings, only_redo});
        };
        if (!division.first.pairs) sum_pairs(pairs, in_float64, stream_);
        add_rotated(division, pairs, in_float64, add_parts);
        add_parts(pieces_.pair_sums, division.pair_parts, 1, kPairRows, 0);
        const LiftParams lifting = {pieces_.sums, pieces_.pivots_float64, p_.signs, pieces_.findings, room_, only_redo,
                                    !in_float64};
        if (p_.signs.draws > 0) launch(lift_rotated_kernel, layout_.shape(), stream_, lifting, plan_);
        launch(lift_pairs_kernel, {dim3(blocks_for(batch_.neurons, kThreads)), kThreads}, stream_, lifting,
               batch_.neurons);
    }

    template <class AddParts>
    void add_rotated(const Division& division, const SumParams& pairs, bool in_float64,
                     const AddParts& add_parts) const {
        double* sums = pieces_.rotated_sums;
        const auto some = [&](const RotatedLayout& layout, int64_t first_draw, int64_t draws, double* pair_sums) {
            if (draws < 1) return;
            SumParams own = pairs;
            own.sums = sums;
            own.parts = layout.parts;
            sum_rotated({own, pair_sums, p_.signs, first_draw, layout, layout.buffers ? pieces_.buffers : nullptr},
                        draws, in_float64, stream_);
            add_parts(sums, layout.parts, draws, kRotatedRows, kRotated + 2 * first_draw);
            sums += draws * layout.parts * kRotatedRows * batch_.neurons;
        };
        some(division.first, 0, std::min<int64_t>(1, division.draws),
             division.first.pairs ? pieces_.pair_sums : nullptr);
        some(division.others, 1, division.draws - 1, nullptr);
    }

    const PairedUpdateParams& p_;
    const Batch& batch_;
    const Stream& stream_;
    const RowLayout<double> layout_;
    const Plan plan_;
    Pieces pieces_ = {};
    RowRoom<double> room_ = {};
};

Batch make_batch(const Matrix& a, const Matrix& b, const uint8_t* keep) {
    return {a.data, b.data, a.row_stride, b.row_stride, a.dtype, keep, a.rows, a.columns};
}

void check(const Matrix& a, const Matrix& b, const Signs& signs) {
    if (a.rows < 1 || a.columns < 1 || signs.draws < 0) {
        throw std::invalid_argument("paired_update: tokens and neurons must be at least 1");
    }
    if (a.columns >= 1 << kNeuronBits) throw std::invalid_argument("paired_update: more than 2^24 neurons");
    if (a.rows != b.rows || a.columns != b.columns || a.dtype != b.dtype) {
        throw std::invalid_argument("paired_update: a and b must have one shape and dtype");
    }
}

}  // namespace

int64_t paired_update_workspace(const Matrix& a, const Matrix& b, int64_t draws, int device) {
    check(a, b, {nullptr, draws});
    const OnDevice on(device);
    int64_t size = 0;
    for_pieces(make_batch(a, b, nullptr), draws, device,
               [&]<class T>(T* Pieces::*, int64_t count) { size += piece<T>(count); });
    return size;
}

void paired_update(const PairedUpdateParams& params, const Stream& stream) {
    check(params.a, params.b, params.signs);
    const OnDevice on(stream.device);
    PairedUpdate(params, make_batch(params.a, params.b, params.keep), stream).run();
}

}  // namespace univfast::cuda
