// Sums of a batch about pivots, as the kernels of the paired moments share them.
#pragma once

#include <cstdint>

#include "../rows.h"
#include "operations.h"

namespace univfast::cuda {

// Of sums of x and of the rotation z of y, for each draw.
enum RotatedRow { kSumZZ, kSumXZ, kRotatedRows };

// Tokens that are summed in float32 before they are added to float64 sums, as on the CPU: 8 keep the rounding of a
// float32 run below 1e-7 of the sum.
constexpr int kRunTokens = 8;

// What the batch is found to be; the first two decide what else is done, on the device.
struct Findings {
    int redo;                // not 0: float32 does not hold it
    unsigned largest_token;  // bits of the largest squared distance, a float, of a token of b from the pivots
    unsigned long long bad;  // bad_key() of the first bad value; kNoBad: none
    int64_t tokens;          // used
};
constexpr unsigned long long kNoBad = ~0ull;

// Of two bad values the one of the lower key comes first: by token, then a before b, then by neuron.
constexpr int kNeuronBits = 24;
__host__ __device__ inline unsigned long long bad_key(int64_t token, bool in_b, int64_t neuron) {
    return (static_cast<unsigned long long>(token) << 1 | (in_b ? 1u : 0u)) << kNeuronBits |
           static_cast<unsigned long long>(neuron);
}

// A batch [tokens, neurons] of both models.
struct Batch {
    const void* a;
    const void* b;
    int64_t stride_a, stride_b;  // in elements
    DType dtype;
    const uint8_t* keep;  // null: all
    int64_t tokens;
    int64_t neurons;

    __device__ bool uses(int64_t token) const { return token < tokens && (!keep || keep[token]); }
};

// What is summed, and where to.
struct SumParams {
    Batch batch;
    const void* pivots;  // [2, neurons], of the type that is summed in
    double* sums;        // [parts, rows, neurons], a part a block or team
    int64_t parts;
    Findings* findings;
    bool only_redo;  // do nothing unless findings->redo
};

// What is launched, an operation a file. Rows of sums are kPairRows; with rotations kRotatedRows of each draw follow.
//
// Finds nothing as yet but how many tokens there are, and takes pivots [2, neurons]: float32 values in both arrays,
// unless the batch is float64.
void take_pivots(const Batch& batch, Findings* findings, float* in_float32, double* in_float64, const Stream& stream);

int64_t pair_parts(const Batch& batch, bool in_float64, int device);
void sum_pairs(const SumParams& params, bool in_float64, const Stream& stream);

// Rows of sums are the shifts.
int64_t shifted_parts(const Batch& batch, const Shifts& shifts, bool in_float64, int device);
void sum_shifted(const SumParams& params, const Shifts& shifts, bool in_float64, const Stream& stream);

// How the rotated sums of a batch are divided over a device.
struct RotatedLayout {
    int lanes;        // threads that rotate a row
    int rows;         // of a team, side by side
    int teams;        // of a block
    int turners;      // threads of a block that rotate, in whole warps
    int adders;       // threads that add, in whole warps
    int64_t parts;    // of the batch, each a team's
    bool pairs;       // the pair sums can come with a draw's
    int64_t shared;   // bytes a block
    int64_t buffers;  // bytes a block in global memory, where its rows do not fit shared memory; 0: they do
};

struct RotatedParams {
    SumParams sums;     // [draws, parts, kRotatedRows, neurons]
    double* pair_sums;  // [parts, kPairRows, neurons]; null: not asked for
    Signs signs;
    int64_t first_draw;
    RotatedLayout layout;
    std::byte* buffers;
};

// Threads of a block, so that each may have 96 registers.
constexpr int kMostRotatedThreads = 640;

// For so many draws at a time.
RotatedLayout rotated_layout(const Batch& batch, bool in_float64, int64_t draws, int device);
void sum_rotated(const RotatedParams& params, int64_t draws, bool in_float64, const Stream& stream);

}  // namespace univfast::cuda
