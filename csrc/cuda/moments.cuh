// From partial sums to central moments of a batch, and to the state that takes them in.
#pragma once

#include "paired.h"
#include "vectors.cuh"

namespace univfast::cuda {

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

void add_parts(const PartSums& params, int64_t sets, const Stream& stream);

// How the kernels that rotate moments are divided: a block a draw, or some.
struct DrawLayout {
    RowLayout<double> rows;
    Plan plan;
};
DrawLayout draw_layout(int64_t neurons, int64_t draws, int device);

struct LiftParams {
    double* sums;  // [5 + 2 * draws + shifts, neurons], of SumRow, RotatedRow and shifts; central moments when done
    const double* pivots;  // [2, neurons]
    Signs signs;
    Shifts shifts;
    Findings* findings;
    RowRoom<double> room;
    bool only_redo;
    bool in_float32;  // see whether that held the batch
};
void lift_moments(const LiftParams& params, const DrawLayout& layout, const Stream& stream);

struct MergeParams {
    Batch batch;
    const double* moments;  // of the batch
    PairedState before, after;
    const Findings* findings;
    Signs signs;
    Shifts shifts;
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
void merge_moments(const MergeParams& params, const DrawLayout& layout, const Stream& stream);

}  // namespace univfast::cuda
