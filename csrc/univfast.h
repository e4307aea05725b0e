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

// The signs of the structured rotation (rotation.h): [kCommonRounds + draws, kStages, neurons], contiguous, each +1 or
// -1; those of the common rounds, then those of each draw.
struct Signs {
    const float* data;
    int64_t draws;
};

// Wrong partners: shift d pairs neuron i of a with neuron (i + shift(d)) % neurons of b. Every shift is a lead and a
// lag, so that a row of a and one of b are read once for several of them.
struct Shifts {
    const int64_t* leads;  // [(count + lag_count - 1) / lag_count], in 0 .. neurons
    const int64_t* lags;   // [lag_count], in 0 .. neurons
    int64_t count;         // may be 0
    int64_t lag_count;     // kSharedLags, or 1 where leads are any numbers
};
constexpr int kSharedLags = 5;

// ---- paired moments -------------------------------------------------------------------------------------
// Moments of neuron i of `a` with neuron i of `b`, with neuron i of each rotation of `b`, and with shifted partners.
//
// moments: [5 + 2 * draws + shifts, neurons], float64, contiguous, written whole on success:
//   mean_a, mean_b, m2_a, m2_b, c_ab, then for each draw m2 of the rotated b and its co-moment with a, then for each
//   shift the co-moment of neuron i of a with its partner.
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
    Shifts shifts;           // in the host's memory
    double* moments;         // [5 + 2 * draws + shifts, neurons]
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
int64_t paired_workspace(int64_t tokens_used, int64_t neurons, int64_t draws, const Shifts& shifts, int threads);

// Returns the first bad value (by token) if there is one; `moments` is then unspecified.
std::optional<BadValue> paired_moments(const PairedParams& params);

// ---- all pairs ------------------------------------------------------------------------------------------
// The co-moments of every neuron of A with every neuron of B are matrix products, which the caller takes from a
// library. These operations prepare its factors, add its products to the state, and reduce the state to what is
// asked of it, row by row, so that no matrix of correlations is ever stored.

// mean, m2 [neurons]: of each neuron over all rows of x; m2 is a sum about the mean. Summed in float64, in an order
// that depends on the shape alone. Returns the first bad value (by row) if there is one.
struct NeuronParams {
    Matrix x;  // [tokens, neurons], at least one each
    double* mean;
    double* m2;
    int threads;
};
std::optional<BadValue> neuron_moments(const NeuronParams& params);

// output[t, i] = (x[t, i] - mean[i]) * scale[i], taken in float64 and rounded to the output's dtype.
struct StandardiseParams {
    Matrix x;             // [tokens, neurons]
    const double* mean;   // [neurons]
    const double* scale;  // [neurons]
    void* output;         // [tokens, neurons], rows `output_stride` elements apart, not overlapping x
    DType output_dtype;   // float64, or float32 where x is not float64
    int64_t output_stride;
    int threads;
};
void standardise(const StandardiseParams& params);

// A matrix of co-moments, or a part of one: [rows, columns], columns contiguous.
struct CoMoments {
    double* data;
    int64_t rows;
    int64_t columns;
    int64_t row_stride;
};

// What becomes of a product on its way to co-moments: its scales, and what is added beside it.
struct Terms {
    const double* row_scale;     // [rows]
    const double* column_scale;  // [columns]
    int deltas;                  // 1 or 2
    const double* row_delta;     // [deltas, rows]
    const double* column_delta;  // [deltas, columns]
};

// c[i, j] += product[i, j] * row_scale[i] * column_scale[j] + sum over d of row_delta[d, i] * column_delta[d, j]
struct AddProductParams {
    CoMoments c;
    Matrix product;  // [rows, columns], float32 or float64
    Terms terms;
    int threads;
};
void add_product(const AddProductParams& params);

// Products of bfloat16, which are exact in float32, where the processor has instructions for them. A layer is packed
// first, for rows and for columns alike, as packed.h has it.

// Whether the instruction-set level in use has them; the operations below throw where it has not.
bool multiplies_bfloat16();

// Neurons of x from `first` on, of `neurons` that are packed together, become x * scale, where scale are powers of two:
// exact but for what leaves the normal range, which is cut off.
struct PackParams {
    Matrix x;            // [tokens, some neurons], bfloat16
    const float* scale;  // of these
    int64_t first;
    int64_t neurons;
    uint32_t* packed;  // packed_size() elements, aligned to 64 bytes
    int threads;
};
int64_t packed_size(int64_t tokens, int64_t neurons);  // in elements
void pack(const PackParams& params);

// Packed layers, and the first of their neurons that is meant.
struct Packed {
    const uint32_t* data;
    int64_t neurons;
    int64_t first;
};

// add_product of x^T y, [tokens, rows] and [tokens, columns]: summed in float32, over kPackTokens tokens at a time.
// The bits do not depend on `threads`.
struct AddPackedProductParams {
    CoMoments c;
    Packed x;
    Packed y;
    int64_t tokens;
    Terms terms;
    std::byte* workspace;  // packed_product_workspace() bytes, aligned to 64
    int64_t workspace_size;
    int threads;
};
int64_t packed_product_workspace(const CoMoments& c, int threads);
void add_packed_product(const AddPackedProductParams& params);

// The rows of a tile of co-moments, and what makes correlations of them. The inverse of a norm is NaN where the norm
// is zero; such a row or column takes part in nothing.
struct Tile {
    CoMoments c;
    const double* row_inverse;  // [rows] 1 / norm
    const int64_t* skip;        // [rows] the column, counted from the tile's first, that a row leaves out; null: none
    int threads;
};

// For each row the `count` highest correlations so far and their columns, highest first, of equal ones the lower
// column first; for each column the highest so far and its row. Columns and rows are counted from first_column and
// first_row. The arrays are updated, so that tiles can be given one after another, in increasing order: to begin with
// they hold -infinity, and -1.
struct BestPairsParams {
    Tile tile;
    const double* column_inverse;  // [columns]
    int64_t first_row;
    int64_t first_column;
    int64_t count;
    double* best;          // [rows, count]
    int64_t* best_column;  // [rows, count]
    double* column_best;   // [columns]; null, with best_row: not asked for
    int64_t* best_row;     // [columns]
    std::byte* workspace;  // best_pairs_workspace() bytes, aligned to 64
    int64_t workspace_size;
};
int64_t best_pairs_workspace(const CoMoments& c, int threads);
void best_pairs(const BestPairsParams& params);

// best[d, i] = the highest correlation of row i with a neuron of draw d's rotation of the columns, or what was there
// if that is higher. skip leaves out the rotated neuron of that number. Beside these, single_r[d, i] = the correlation
// of row i with the rotated neuron of number single[i].
struct RotatedBestParams {
    Tile tile;
    Signs signs;                   // of as many neurons as the tile has columns
    const double* column_inverse;  // [draws, columns]: 1 / norm of each rotated neuron
    double* best;                  // [draws, rows], draws `best_stride` elements apart
    int64_t best_stride;
    const int64_t* single;  // [rows] -1: none of this row; null: of no row
    double* single_r;       // [draws, rows], draws `single_stride` elements apart; rows that have none stay as they are
    int64_t single_stride;
    std::byte* workspace;  // rotated_best_workspace() bytes, aligned to 64
    int64_t workspace_size;
};
int64_t rotated_best_workspace(const CoMoments& c, int threads);
void rotated_best(const RotatedBestParams& params);

// variance[d, j] = the second moment of neuron j of R_d y, where c holds the co-moments of y: diag(R c R^T).
struct RotatedVarianceParams {
    CoMoments c;  // [neurons, neurons], symmetric; not modified
    Signs signs;
    double* variance;  // [draws, neurons]
    int threads;
    std::byte* workspace;  // rotated_variance_workspace() bytes, aligned to 64
    int64_t workspace_size;
};
int64_t rotated_variance_workspace(const CoMoments& c, int64_t draws, int threads);
void rotated_variance(const RotatedVarianceParams& params);

// ---- candidates -----------------------------------------------------------------------------------------
// Some pairs alone, of neurons anywhere in A and B. The tokens of a neuron stand next to each other, a block of tokens
// at a time, so that a pair reads two short rows.

// output[i, t] = (x[t, i] - mean[i]) * scale[i], as standardise: [neurons, tokens].
void standardise_transposed(const StandardiseParams& params);

// Pairs as rows: row i of x with the rows of y that places[starts[i] .. starts[i + 1]] name.
struct PairRows {
    const int64_t* starts;  // [rows of x + 1], not decreasing, from 0 to count
    const int64_t* places;  // [count]
    int64_t count;
};

// sums[k] += (sum over t of x[i, t] * y[j, t]) * row_scale[i] * column_scale[j] + row_delta[i] * column_delta[j] for
// each pair k, (i, j). The products are summed in x's dtype, so that a block of float32 should have few tokens. The
// bits do not depend on `threads`. Where pairs break the contract, sums are unspecified after it is said.
struct CandidateProductsParams {
    Matrix x;  // [neurons of A, tokens], float32 or float64
    Matrix y;  // [neurons of B, tokens], of the same dtype
    PairRows pairs;
    const double* row_scale;     // [neurons of A]
    const double* column_scale;  // [neurons of B]
    const double* row_delta;     // [neurons of A]
    const double* column_delta;  // [neurons of B]
    double* sums;                // [pairs]
    int threads;
};
void candidate_products(const CandidateProductsParams& params);

// ---- details of matched pairs ---------------------------------------------------------------------------
// Neuron i of A with the one neuron of B that it is matched with, whatever layers the two are in.

// The highest values of each neuron and where they are: [neurons, count], highest first, of equal ones the lower token
// first; -infinity and -1 where there are fewer. `partner` has the other neuron's value at the same token.
struct Contexts {
    double* value;
    int64_t* token;
    double* partner;
};

// Adds to the sums of each pair, over the tokens of each block, of x = (a - pivot) * scale and y likewise; to those of
// their higher powers, over all tokens (rows.h names the rows); and raises the lists of the highest a, and of the
// highest b. dtype is what is summed in within a run of kRunTokens tokens, with float64 between runs: float32, or
// float64, which it must be where a layer is. Tokens and neurons that hold NaN or infinity make their sums so, and
// `top` is then unspecified. The bits do not depend on `threads`.
struct PairDetailsParams {
    std::vector<Matrix> a;  // the layers of A: [tokens, width] each, together `neurons` wide
    std::vector<Matrix> b;  // the layers of B
    const int64_t* match;   // [neurons] number of the partner among all neurons of B
    const int64_t* rows;    // [tokens_used] the rows to use, increasing; null: all of them
    int64_t tokens_used;
    int64_t first_token;  // number of row 0
    const int64_t* ends;  // [blocks] where each block ends among the tokens used, not decreasing
    int64_t blocks;
    DType dtype;
    const void* pivot;  // [2, neurons] of dtype: of the neurons of A, and of their partners
    const void* scale;  // [2, neurons] of dtype
    double* pairs;      // [blocks, kPairRows, neurons]
    double* powers;     // [kPowerRows, neurons]
    Contexts top[2];    // of the neurons of A, and of their partners
    int64_t count;      // of contexts, at least 1
    int threads;
};
void pair_details(const PairDetailsParams& params);

// sums[groups[t], i] += x[rows[t], i] - pivot[i], in float64. Tokens of one group that follow each other are summed
// before they are added, so that few rows of `sums` are touched where they come sorted. The bits do not depend on
// `threads`.
struct GroupSumsParams {
    Matrix x;               // [tokens, neurons]
    const int64_t* rows;    // [tokens_used]
    const int64_t* groups;  // [tokens_used]
    int64_t tokens_used;
    const double* pivot;  // [neurons]
    double* sums;         // [count, neurons], rows `sums_stride` elements apart
    int64_t sums_stride;
    int64_t count;  // of groups
    int threads;
};
void group_sums(const GroupSumsParams& params);

// The highest values of each neuron and their tokens: [neurons, count], highest first, of equal ones the lower token
// first; -infinity and -1 where there are fewer.
struct ExtremeList {
    float* value;
    int64_t* token;
};

// Raises the lists of each neuron's highest values, and of its highest negated ones. Infinities are listed like any
// value, NaN never is. The bits do not depend on `threads`, nor on how tokens are cut into calls.
struct ExtremeTokensParams {
    Matrix x;               // [tokens, neurons], not float64
    const int64_t* tokens;  // [tokens] their numbers, increasing, none of them listed before
    ExtremeList high;
    ExtremeList low;
    int64_t count;  // of values in a list, at least 1
    int threads;
};
void extreme_tokens(const ExtremeTokensParams& params);

// ---- structured rotation --------------------------------------------------------------------------------

// Fills signs [kCommonRounds + draws, kStages, neurons] from a seed. The same on every machine.
void rotation_signs(float* signs, int64_t draws, int64_t neurons, uint64_t seed);

// output [draws, rows, neurons] (contiguous, of x's dtype, not overlapping x): each row of x rotated by each draw,
// R_d x. x is float32 or float64. workspace: rotate_workspace() bytes, aligned to 64.
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
