// The operations of the native core, and their contracts. Nothing here knows Python or torch.
//
// The caller owns all memory, workspace included. Sizes and strides are in elements. Operations throw
// std::invalid_argument on arguments that break a contract; they neither print nor allocate results.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace univfast {

enum class DType : int { float64 = 0, float32 = 1, float16 = 2, bfloat16 = 3 };

// A matrix in the caller's memory: [rows, columns], columns contiguous, rows `row_stride` elements apart.
struct Matrix {
    const void* data;
    DType dtype;
    int64_t rows;
    int64_t columns;
    int64_t row_stride;  // may be negative or 0
};

// The signs of the structured rotation (rotation.h): [draws, kStages, neurons], contiguous, each +1 or -1.
struct Signs {
    const float* data;
    int64_t draws;
};

// ---- paired moments -------------------------------------------------------------------------------------
// Moments of neuron i of `a` with neuron i of `b`, and with neuron i of each rotation of `b`.
//
// moments: [5 + 2 * draws, neurons], float64, contiguous, written whole on success:
//   mean_a, mean_b, m2_a, m2_b, c_ab, then for each draw m2 of the rotated b and its co-moment with a.
//   m2 and c are sums about the mean, not divided by the number of tokens. The mean of the rotated b is the
//   rotation of mean_b, so it is not kept.
// float64 input is summed in float64; any other in float32 within a run of kRunTokens, float64 between runs.
// The bits do not depend on `threads`.
struct PairedParams {
    Matrix a;                // [tokens, neurons]
    Matrix b;                // [tokens, neurons]
    const int64_t* rows;     // [tokens_used] the rows of a and b to use; null: all of them, in order
    int64_t tokens_used;     // at least 1
    Signs signs;             // draws may be 0
    double* moments;         // [5 + 2 * draws, neurons]
    std::byte* workspace;    // paired_workspace() bytes, aligned to 64
    int64_t workspace_size;  // bytes
    int threads;             // at least 1
};

// A value that is NaN or infinite, or that made a sum of squares overflow float64.
struct BadValue {
    bool in_b;
    int64_t row;
    int64_t neuron;
    double value;
};

// Bytes that paired_moments needs as workspace.
int64_t paired_workspace(int64_t tokens_used, int64_t neurons, int64_t draws, int threads);

// Returns the first bad value (by token) if there is one; `moments` is then unspecified.
std::optional<BadValue> paired_moments(const PairedParams& params);

// ---- structured rotation --------------------------------------------------------------------------------

// Fills signs [draws, kStages, neurons] from a seed. The same on every machine.
void rotation_signs(float* signs, int64_t draws, int64_t neurons, uint64_t seed);

// output [draws, rows, neurons] (contiguous, of x's dtype, not overlapping x): each row of x rotated by each draw,
// R_d x. x is float32 or float64. workspace: 2 * threads rows of neurons, of x's dtype, aligned to 64 bytes.
struct RotateParams {
    Matrix x;  // [rows, neurons]
    Signs signs;
    void* output;
    std::byte* workspace;
    int64_t workspace_size;  // bytes
    int threads;
};
int64_t rotate_workspace(const Matrix& x, int threads);
void rotate(const RotateParams& params);

// ---- the machine ----------------------------------------------------------------------------------------

// The instruction-set level in use: the best that this processor has, or the one that UNIVFAST_SIMD names.
const char* simd_level();

// All levels that this build has and this processor runs, from the plainest to the best.
std::vector<const char*> simd_levels();

}  // namespace univfast
