// Sums of a chunk with shifted partners, and how they are lifted and merged.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../moments.h"
#include "../shifts.h"
#include "../workspace.h"
#include "kernels.h"

namespace univfast::cpu {

// Runs that are summed in T before they are added to float64 sums: 16 of 8 tokens, in two steps, keep the rounding of
// float32 near that of a run, and save most of the traffic of sums that do not fit L1.
constexpr int kRunsTogether = 16;

// What one thread needs. Sized for T = double.
struct ShiftedScratch {
    std::byte* deviations[2];  // [kRunTokens, deviation_stride] of T, of a and of b
    std::byte* sums;           // [blocks, leads * lags, kShiftedBlock] of T
};

// Elements from one row of deviations to the next: an odd number of cache lines, so that rows do not meet in one set.
template <class T>
int64_t deviation_stride(int64_t neurons) {
    constexpr int64_t kLine = kAlignment / sizeof(T);
    return ((neurons + kShiftedBlock + kLine - 1) / kLine | 1) * kLine;
}

inline int64_t shifted_values(const Shifts& shifts, int64_t neurons) {
    return (neurons + kShiftedBlock - 1) / kShiftedBlock * kShiftedBlock * lead_count(shifts) * shifts.lag_count;
}

inline int64_t shifted_size(const Shifts& shifts, int64_t neurons) {  // bytes
    if (shifts.count == 0) return 0;
    return 2 * piece<double>(kRunTokens * deviation_stride<double>(neurons)) +
           piece<double>(shifted_values(shifts, neurons));
}

inline ShiftedScratch take_shifted(Workspace& workspace, const Shifts& shifts, int64_t neurons) {
    if (shifts.count == 0) return {};
    const auto take = [&](int64_t count) { return reinterpret_cast<std::byte*>(workspace.take<double>(count)); };
    const int64_t rows = kRunTokens * deviation_stride<double>(neurons);
    std::byte* a = take(rows);
    std::byte* b = take(rows);
    return {{a, b}, take(shifted_values(shifts, neurons))};
}

// The sums of a chunk's products about the pivots, run by run, into rows [shifts, neurons].
template <class T>
class ShiftedPartners {
 public:
    ShiftedPartners(const Kernels<T>& kernels, const Shifts& shifts, int64_t neurons, const ShiftedScratch& scratch,
                    double* rows)
        : kernels_(kernels),
          shifts_(shifts),
          neurons_(neurons),
          stride_(deviation_stride<T>(neurons)),
          x_(reinterpret_cast<T*>(scratch.deviations[0])),
          y_(reinterpret_cast<T*>(scratch.deviations[1])),
          sums_(reinterpret_cast<T*>(scratch.sums)),
          rows_(rows) {}

    // Has the deviations of a run kept.
    void keep(Run<T>& run) const {
        if (shifts_.count == 0) return;
        run.x = x_;
        run.y = y_;
        run.stride = stride_;
    }

    // Rows to have brought while the next run is added.
    void bring(const NextRows& next) { next_ = next; }

    // Adds the run that was kept.
    void add(int tokens) {
        if (shifts_.count == 0) return;
        for (T* rows : {x_, y_}) {
            for (int t = 0; t < tokens; ++t) begin_anew(rows + t * stride_);
        }
        kernels_.shifted_run({x_, y_, stride_, tokens, neurons_, shifts_.leads, shifts_.lags, lead_count(shifts_),
                              shifts_.lag_count, runs_ == 0, next_},
                             sums_);
        if (++runs_ == kRunsTogether) finish();
    }

    // Adds to the rows what is not there yet.
    void finish() {
        if (shifts_.count == 0 || runs_ == 0) return;
        const T* sums = sums_;
        for (int64_t first = 0; first < neurons_; first += kShiftedBlock) {
            const int64_t width = std::min<int64_t>(kShiftedBlock, neurons_ - first);
            for (int64_t d = 0; d < shifts_.count; ++d) {
                add_block(sums + d * kShiftedBlock, first, width, shifts_.leads[d / shifts_.lag_count],
                          rows_ + d * neurons_);
            }
            sums += lead_count(shifts_) * shifts_.lag_count * kShiftedBlock;
        }
        runs_ = 0;
    }

 private:
    void begin_anew(T* row) const {
        for (int64_t i = neurons_; i < neurons_ + kShiftedBlock; ++i) row[i] = row[i - neurons_];
    }

    // Values of neurons first - lead .. first - lead + width, which may be cut where neurons begin anew.
    void add_block(const T* values, int64_t first, int64_t width, int64_t lead, double* row) const {
        const int64_t at = first >= lead ? first - lead : first - lead + neurons_;
        const int64_t before = std::min(width, neurons_ - at);
        kernels_.add(values, before, row + at);
        if (before < width) kernels_.add(values + before, width - before, row);
    }

    const Kernels<T>& kernels_;
    const Shifts& shifts_;
    int64_t neurons_, stride_;
    T *x_, *y_, *sums_;
    double* rows_;
    NextRows next_ = {};
    int runs_ = 0;
};

// row[i] = use(row[i], i, the partner of i), for each shift's row. In two stretches, which compilers can vectorise.
template <class Use>
void for_partners(const Shifts& shifts, int64_t neurons, double* rows, const Use& use) {
    for (int64_t d = 0; d < shifts.count; ++d) {
        const int64_t shift = shift_of(shifts, d, neurons);
        double* row = rows + d * neurons;
        for (int64_t i = 0; i < neurons - shift; ++i) row[i] = use(row[i], i, i + shift);
        for (int64_t i = neurons - shift; i < neurons; ++i) row[i] = use(row[i], i, i + shift - neurons);
    }
}

// rows [shifts, neurons]: sums about pivots -> co-moments, given the sum of x and the mean of y themselves.
inline void lift_shifted(const Shifts& shifts, int64_t neurons, const double* x, const double* mean_y, double* rows) {
    for_partners(shifts, neurons, rows,
                 [=](double xy, int64_t i, int64_t j) { return centred(xy, x[i], mean_y[j], 1.0); });
}

// into [shifts, neurons], of n_into tokens, takes in from, of n_from; delta_a and delta_b lie between their means.
inline void merge_shifted(const Shifts& shifts, int64_t neurons, const double* delta_a, const double* delta_b,
                          double* into, double n_into, const double* from, double n_from) {
    for (int64_t i = 0; i < shifts.count * neurons; ++i) into[i] += from[i];
    for_partners(shifts, neurons, into,
                 [=](double c, int64_t i, int64_t j) { return c + between(delta_a[i], delta_b[j], n_into, n_from); });
}

}  // namespace univfast::cpu
