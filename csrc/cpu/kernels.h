// The inner loops, as a table that each instruction-set level fills. Chosen once a call (dispatch.cpp).
//
// All pointers are to contiguous rows of `neurons` elements; no alignment is asked for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../rotation.h"
#include "../rows.h"
#include "../univfast.h"

namespace univfast::cpu {

// Tokens whose rows are read side by side, and summed in T before they are added to float64 sums. 8 keeps the rounding
// of a float32 run below 1e-7 of the sum, so that r holds 1e-6 even for a single run, and 16 rows are what a core
// follows at the memory's rate: 32 took 5% longer with AVX2 and AVX-512.
constexpr int kRunTokens = 8;

// Tokens that `middle` can sort.
constexpr int kMostSamples = 16;

// Neurons that shifted_run takes at a time. What is read for two vectors of them is then seldom read again for the next
// two: 32 took 5% longer, 128 no less.
constexpr int kShiftedBlock = 64;

template <class T>
struct Run {
    const void* a[kRunTokens];  // rows [neurons], of dtype
    const void* b[kRunTokens];
    DType dtype;       // T's; or float16 or bfloat16 where T is float
    int tokens;        // 1 .. kRunTokens
    const T* pivot_a;  // [neurons]
    const T* pivot_b;
    T* x;  // [tokens, neurons], rows `stride` elements apart: written with a - pivot_a; null: not asked for
    T* y;  // b - pivot_b
    int64_t stride;
};

template <class T>
struct RotatedRun {
    const T* a[kRunTokens];  // rows [neurons]
    const T* z[kRunTokens];
    int tokens;
    const T* pivot_a;  // [neurons]
};

// Tokens of matched pairs whose higher powers are summed in T: what follows from them need not be as exact as r.
constexpr int kDetailsTokens = 4 * kRunTokens;

// Neurons of A and their partners, side by side.
template <class T>
struct DetailsRun {
    const T* a[kDetailsTokens];  // rows [neurons]
    const T* b[kDetailsTokens];
    int tokens;         // 1 .. kDetailsTokens
    const T* pivot[2];  // [neurons], of a and of b
    const T* scale[2];
};

// What a run adds to: rows `stride` apart, of PairRow and of PowerRow; and its highest values [neurons], written whole.
template <class T>
struct DetailsSums {
    double* pairs;
    double* powers;
    int64_t stride;
    T* highest[2];
};

// Rows of a and b that are read next, to be asked for before they are.
struct NextRows {
    const std::byte* rows[2 * kRunTokens];
    int64_t neuron_bytes[2 * kRunTokens];  // of one value
    int count;
};

template <class T>
struct ShiftedRun {
    const T* x;  // [tokens, neurons + kShiftedBlock], rows `stride` elements apart: what is behind the neurons is what
    const T* y;  //   follows where they begin anew
    int64_t stride;
    int tokens;
    int64_t neurons;
    const int64_t* leads;  // [lead_count]
    const int64_t* lags;   // [lag_count]
    int64_t lead_count, lag_count;
    bool first;     // nothing is in the sums as yet
    NextRows next;  // asked for meanwhile
};

template <class T>
struct Kernels {
    // middle[i] = the mean of the middle half of rows [samples, neurons] (contiguous), taken from one of them: exactly
    // the value where all are equal. Returns the smallest distance, other than 0, of a neuron's smallest sample from
    // its largest; infinity if all are 0.
    T (*middle)(const T* rows, int samples, int64_t neurons, T* middle);

    // sums[row * stride + i] += the run's sums, for i in 0 .. neurons and each SumRow.
    void (*paired_run)(const Run<T>& run, int64_t neurons, double* sums, int64_t stride);

    // mid [neurons + turn] = the first round of x - pivot, or of x where pivot is null, and its first values once more
    // behind it; and the middle round, where there is one. signs [kCommonRounds, kStages, neurons]. Returns the sum of
    // (x[i] - pivot[i])^2.
    T (*rotate_first)(const RotationPlan& plan, const T* x, const T* pivot, const float* signs, T* mid);

    // signs [kStages, neurons]: z [part] = the second round of mid: neurons first .. first + part, where part divides
    // first.
    void (*rotate_second)(const RotationPlan& plan, const T* mid, const float* signs, int64_t first, T* z);

    // The sum of (x[i] - pivot[i])^2.
    T (*squared_distance)(const T* x, const T* pivot, int64_t neurons);

    // zz[i] += z[t, i]^2; xz[i] += (a[t, i] - pivot_a[i]) z[t, i], over the run's tokens t.
    void (*rotated_run)(const RotatedRun<T>& run, int64_t neurons, double* zz, double* xz);

    // sums [blocks, lead_count * lag_count, kShiftedBlock]: for i of block k, lead u and lag v,
    // sums[k, u, v, i] += x[i - leads[u]] y[i + lags[v]], neurons counted round, over the run's tokens; = for the first
    // run. What the last block has behind the neurons is of no meaning.
    void (*shifted_run)(const ShiftedRun<T>& run, T* sums);

    // sums[i] += values[i]
    void (*add)(const T* values, int64_t count, double* sums);

    // mean, m2 [neurons], of `before` tokens, take in the run's tokens (rows [neurons]).
    void (*moments_run)(const T* const* rows, int tokens, int64_t neurons, double before, double* mean, double* m2);

    // to[i] = (from[i] - mean[i]) * scale[i], in float64 until it is stored.
    void (*standardise)(const T* from, const double* mean, const double* scale, int64_t neurons, T* to);

    // c[i] += product[i] * row_scale * column_scale[i] + the sum over d of row_delta[d] * column_delta[d][i]; deltas
    // are 1 or 2.
    void (*add_product)(const T* product, double row_scale, const double* column_scale, int deltas,
                        const double* row_delta, const double* const* column_delta, int64_t columns, double* c);

    // to[i] = from[i], of the dtype given, as T.
    void (*convert)(const void* from, DType dtype, T* to, int64_t neurons);

    // The sums of a run of matched pairs, and its highest values.
    void (*details_run)(const DetailsRun<T>& run, int64_t neurons, const DetailsSums<T>& sums);

    // to[places[k]] = from[columns[k]], of the dtype given, as T.
    void (*gather)(const void* from, DType dtype, const int32_t* columns, const int32_t* places, int64_t count, T* to);

    // found = the i where values[i] > floor[i], in order; returns how many.
    int64_t (*above)(const T* values, const T* floor, int64_t count, int32_t* found);

    // sums[i] += x[i] - pivot[i]
    void (*add_deviations)(const T* x, const double* pivot, int64_t neurons, double* sums);

    // products[k] = the sum over t of x[t] * y[places[k] * stride + t], for k in 0 .. count.
    void (*row_products)(const T* x, const T* y, int64_t stride, int64_t tokens, const int64_t* places, int64_t count,
                         T* products);

    // to[i * to_stride + t] = from[t * from_stride + i], for i in 0 .. neurons and t in 0 .. tokens.
    void (*transpose)(const T* from, int64_t from_stride, int64_t tokens, int64_t neurons, T* to, int64_t to_stride);
};

// Loops over a row of co-moments or correlations.
struct RowKernels {
    // r[i] = c[i] * row_inverse * column_inverse[i], held within -1 .. 1.
    void (*correlations)(const double* c, double row_inverse, const double* column_inverse, int64_t count, double* r);

    // The largest of r, NaN left out; -infinity if there is none.
    double (*largest)(const double* r, int64_t count);

    // The largest of c[i] * column_inverse[i], NaN left out; -infinity if there is none.
    double (*largest_scaled)(const double* c, const double* column_inverse, int64_t count);

    // Where r[i] > best[i]: best[i] = r[i], best_row[i] = row.
    void (*raise)(const double* r, int64_t row, int64_t count, double* best, int64_t* best_row);

    // sums[i] += x[i] * y[i]
    void (*multiply_add)(const double* x, const double* y, int64_t count, double* sums);
};

// Products of bfloat16 (packed.h).
struct ProductKernels {
    // packed [token pairs, kPanel] = the values of two rows, or of one and of none where `second` is null, times scale.
    void (*pack_pair)(const uint16_t* first, const uint16_t* second, const float* scale, int64_t neurons,
                      uint32_t* packed);

    // sums[i * stride + j] = the sum over the pairs of tokens of x[., i] y[., j], for kPanel rows and columns; += where
    // there are sums already.
    void (*multiply_panels)(const uint32_t* x, const uint32_t* y, int64_t pairs, bool first, float* sums,
                            int64_t stride);
};

struct Level {
    const char* name;
    Kernels<float> float32;
    Kernels<double> float64;
    RowKernels rows;
    const ProductKernels* products = nullptr;  // null: it has no instructions for them
};

template <class T>
const Kernels<T>& kernels(const Level& level);
template <>
inline const Kernels<float>& kernels<float>(const Level& level) {
    return level.float32;
}
template <>
inline const Kernels<double>& kernels<double>(const Level& level) {
    return level.float64;
}

// One a file; CMake chooses the files that fit the processor family.
extern const Level level_baseline;
extern const Level level_avx2;
extern const Level level_avx512;
extern const ProductKernels products_avx512bf16;

// The level in use. Throws std::invalid_argument if UNIVFAST_SIMD names one that is not there.
const Level& active_level();

}  // namespace univfast::cpu
