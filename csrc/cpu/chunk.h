// A chunk of tokens -> central moments, and how the moments of two chunks merge.
#pragma once

#include <optional>

#include "../workspace.h"
#include "kernels.h"
#include "rotations.h"
#include "shifted.h"

namespace univfast::cpu {

// Rows of a state, and the first of those of shifted partners.
inline int64_t shifted_row(int64_t draws) { return kRotated + 2 * draws; }
inline int64_t moment_rows(int64_t draws, const Shifts& shifts) { return shifted_row(draws) + shifts.count; }

// One call's arguments and what follows from them.
struct Job {
    const PairedParams& params;
    const Level& level;
    RotationPlan plan;
    int64_t neurons;
    int64_t draws;

    explicit Job(const PairedParams& p);

    int64_t rows() const { return moment_rows(draws, params.shifts); }

    int64_t row(int64_t token) const { return params.rows ? params.rows[token] : token; }
};

// What one thread needs besides the results. Sized for T = double, which any chunk may fall back to.
struct Scratch {
    double* sums;            // [5 + 2 * draws + shifts, neurons]: chunk_moments leaves its result here
    double* delta[2];        // [neurons]
    RowScratch<double> row;  // of one row in float64
    std::byte* pivot[2];     // [neurons] of T, for a and b
    std::byte* converted;    // [2 * kRunTokens, neurons] of T: rows of a, then of b
    std::byte* mid;          // [kRunTokens, mid_size(neurons)] of T: the first round of a run; none without draws
    std::byte* rotated;      // [kRunTokens, part] of T: the second round of a run, part by part; none without draws
    ShiftedScratch shifted;
    double usual_square;  // the median squared distance of the chunk's sampled tokens of b from the pivot
};

int64_t scratch_size(int64_t neurons, int64_t draws, const Shifts& shifts);  // bytes
Scratch take_scratch(Workspace& workspace, int64_t neurons, int64_t draws, const Shifts& shifts);

// scratch.sums = the moments of tokens first .. first + count; or the bad value that prevents it.
std::optional<BadValue> chunk_moments(const Job& job, int64_t first, int64_t count, Scratch& scratch);

// into, of n_into tokens, takes in from, of n_from. Uses scratch.delta and scratch.row.
void merge_moments(const Job& job, double* into, double n_into, const double* from, double n_from, Scratch& scratch);

}  // namespace univfast::cpu
