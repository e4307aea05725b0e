// Sums a chunk about a pivot that it takes for each neuron from some of its tokens, and lifts them to central
// moments: float32 within a run of tokens and float64 between runs, or float64 throughout.
#include "chunk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "../moments.h"
#include "../pivots.h"
#include "matrix.h"

namespace univfast::cpu {
namespace {

static_assert(kPivotTokens <= kMostSamples && kPivotTokens <= 2 * kRunTokens, "they lie where converted rows do");

// A token this many times as large as the usual one, in squares, is rotated in float64.
constexpr double kLargeToken = 16;

// float32 rounds every rotated neuron in proportion to their usual size, at random from token to token, so r of one in
// which the layer cancels is off by about 1.5e-7 * sqrt(usual second moment / its own / tokens). Beyond this ratio,
// which keeps r within 5e-7, the chunk is summed in float64.
constexpr double kLargestCancellation = 8;  // times tokens

template <class T>
T* as(std::byte* p) {
    return reinterpret_cast<T*>(p);
}

int64_t mid_bytes(int64_t neurons) { return piece<double>(mid_size(neurons)); }

// Points at a token's values as T, converted if they are not.
template <class T>
const T* fetch(const Job& job, const Matrix& matrix, int64_t token, T* converted) {
    return fetch_row(job.level, matrix, job.row(token), 0, job.neurons, converted);
}

// pivot = the mean of the middle half of some of the chunk's tokens, neuron by neuron: a neuron that is silent but for
// a few tokens has the pivot 0, and their squares stay near its variance. Returns whether squares fit T.
template <class T>
bool take_pivot(const Job& job, const Matrix& matrix, int64_t first, int64_t count, T* pivot, Scratch& s) {
    const int64_t n = job.neurons, samples = std::min<int64_t>(count, kPivotTokens);
    T* rows = as<T>(s.converted);
    for (int64_t k = 0; k < samples; ++k) {
        T* row = rows + k * n;
        const T* values = fetch(job, matrix, first + sampled_token(k, samples, count), row);
        if (values != row) std::copy_n(values, n, row);
    }
    return kernels<T>(job.level).middle(rows, static_cast<int>(samples), n, pivot) > kSmallestDeviation;
}

// s.usual_square of tokens first .. first + count, from their float32 pivots.
void take_usual_square(const Job& job, int64_t first, int64_t count, Scratch& s) {
    double squares[kPivotTokens];
    const int64_t samples = std::min<int64_t>(count, kPivotTokens);
    for (int64_t k = 0; k < samples; ++k) {
        const int64_t token = first + sampled_token(k, samples, count);
        const float* values = fetch(job, job.params.b, token, as<float>(s.converted));
        squares[k] =
            static_cast<double>(kernels<float>(job.level).squared_distance(values, as<float>(s.pivot[1]), job.neurons));
        if (!std::isfinite(squares[k])) squares[k] = std::numeric_limits<double>::max();
    }
    std::nth_element(squares, squares + samples / 2, squares + samples);
    s.usual_square = squares[samples / 2];
}

// The rows of a run, as T.
template <class T>
struct Rows {
    const void* a[kRunTokens];
    const void* b[kRunTokens];
    int tokens;
};

template <class T>
Rows<T> fetch_rows(const Job& job, int64_t first, int tokens, Scratch& s) {
    Rows<T> rows;
    rows.tokens = tokens;
    for (int t = 0; t < tokens; ++t) {
        rows.a[t] = fetch(job, job.params.a, first + t, as<T>(s.converted) + t * job.neurons);
        rows.b[t] = fetch(job, job.params.b, first + t, as<T>(s.converted) + (kRunTokens + t) * job.neurons);
    }
    return rows;
}

template <class T>
void add_pairs(const Job& job, const void* const* a, const void* const* b, DType dtype, int tokens, Scratch& s,
               ShiftedPartners<T>& shifted) {
    Run<T> run = {};
    std::copy_n(a, tokens, run.a);
    std::copy_n(b, tokens, run.b);
    run.dtype = dtype;
    run.tokens = tokens;
    run.pivot_a = as<T>(s.pivot[0]);
    run.pivot_b = as<T>(s.pivot[1]);
    shifted.keep(run);
    kernels<T>(job.level).paired_run(run, job.neurons, s.sums, job.neurons);
    shifted.add(tokens);
}

// The same of 16-bit inputs as they are.
void add_narrow_pairs(const Job& job, int64_t first, int tokens, Scratch& s, ShiftedPartners<float>& shifted) {
    const void *a[kRunTokens], *b[kRunTokens];
    for (int t = 0; t < tokens; ++t) {
        a[t] = row_at(job.params.a, job.row(first + t), 0);
        b[t] = row_at(job.params.b, job.row(first + t), 0);
    }
    add_pairs<float>(job, a, b, job.params.a.dtype, tokens, s, shifted);
}

// Adds the rotations of a run's tokens. float32 rounds a rotated token in proportion to the whole token's size. Where
// one is far larger than the others (as the first of a sequence can be), that drowns a rotated neuron in which it
// happens to cancel; such a token is rotated in float64.
template <class T>
class RunRotations {
 public:
    RunRotations(const Job& job, const Rows<T>& rows, Scratch& s) : job_(job), rows_(rows), s_(s) {
        for (int t = 0; t < rows.tokens; ++t) start(t);
    }

    void add(int64_t draw) {
        const float* signs = draw_signs(job_.params.signs, draw, job_.neurons);
        const int64_t part = job_.plan.part;
        double* sums = s_.sums + (kRotated + 2 * draw) * job_.neurons;
        for (int64_t first = 0; first < job_.neurons; first += part) {
            RotatedRun<T> run;
            run.tokens = rows_.tokens;
            run.pivot_a = as<T>(s_.pivot[0]) + first;
            for (int t = 0; t < rows_.tokens; ++t) {
                run.a[t] = row(rows_.a, t) + first;
                run.z[t] = finish(t, signs, first);
            }
            kernels_.rotated_run(run, part, sums + first, sums + job_.neurons + first);
        }
    }

 private:
    static const T* row(const void* const* rows, int t) { return static_cast<const T*>(rows[t]); }

    void start(int t) {
        const T* pivot = as<T>(s_.pivot[1]);
        const float* signs = common_signs(job_.params.signs);
        const T square = kernels_.rotate_first(job_.plan, row(rows_.b, t), pivot, signs, mid<T>(t));
        large_[t] = std::is_same_v<T, float> && !(square <= kLargeToken * s_.usual_square);
        if (!large_[t]) return;
        for (int64_t i = 0; i < job_.neurons; ++i) {
            s_.delta[0][i] = static_cast<double>(row(rows_.b, t)[i]) - static_cast<double>(pivot[i]);
        }
        kernels<double>(job_.level).rotate_first(job_.plan, s_.delta[0], nullptr, signs, mid<double>(t));
    }

    // A part of a token's second round.
    const T* finish(int t, const float* signs, int64_t first) {
        const int64_t part = job_.plan.part;
        T* z = as<T>(s_.rotated) + t * part;
        if (large_[t]) {
            kernels<double>(job_.level).rotate_second(job_.plan, mid<double>(t), signs, first, s_.delta[0]);
            std::transform(s_.delta[0], s_.delta[0] + part, z, [](double value) { return static_cast<T>(value); });
        } else {
            kernels_.rotate_second(job_.plan, mid<T>(t), signs, first, z);
        }
        return z;
    }

    // Each token has room for float64, whatever it is rotated in.
    template <class U>
    U* mid(int t) {
        return as<U>(s_.mid + t * mid_bytes(job_.neurons));
    }

    const Job& job_;
    const Rows<T>& rows_;
    Scratch& s_;
    const Kernels<T>& kernels_ = kernels<T>(job_.level);
    bool large_[kRunTokens];
};

bool is_narrow(DType dtype) { return dtype == DType::float16 || dtype == DType::bfloat16; }

// The rows of the run that begins at a token, of a chunk that ends at another.
NextRows next_rows(const Job& job, int64_t token, int64_t end) {
    NextRows next = {};
    for (int64_t t = token; t < std::min(token + kRunTokens, end); ++t) {
        for (const Matrix* matrix : {&job.params.a, &job.params.b}) {
            next.rows[next.count] = row_at(*matrix, job.row(t), 0);
            next.neuron_bytes[next.count++] = element_size(matrix->dtype);
        }
    }
    return next;
}

// s.sums and s.pivot of tokens first .. first + count. Returns false where squares are known not to fit T.
template <class T>
bool sum_chunk(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const PairedParams& p = job.params;
    std::fill_n(s.sums, job.rows() * job.neurons, 0.0);
    bool fits = take_pivot(job, p.a, first, count, as<T>(s.pivot[0]), s);
    fits &= take_pivot(job, p.b, first, count, as<T>(s.pivot[1]), s);
    if constexpr (std::is_same_v<T, float>) {
        if (job.draws > 0) take_usual_square(job, first, count, s);
    }
    ShiftedPartners<T> shifted(kernels<T>(job.level), p.shifts, job.neurons, s.shifted,
                               s.sums + shifted_row(job.draws) * job.neurons);
    const bool direct = std::is_same_v<T, float> && job.draws == 0 && p.a.dtype == p.b.dtype && is_narrow(p.a.dtype);
    for (int64_t token = first; token < first + count; token += kRunTokens) {
        const int tokens = static_cast<int>(std::min<int64_t>(kRunTokens, first + count - token));
        if (p.shifts.count > 0) shifted.bring(next_rows(job, token + tokens, first + count));
        if constexpr (std::is_same_v<T, float>) {
            if (direct) {
                add_narrow_pairs(job, token, tokens, s, shifted);
                continue;
            }
        }
        const Rows<T> rows = fetch_rows<T>(job, token, tokens, s);
        add_pairs<T>(job, rows.a, rows.b, kDType<T>, tokens, s, shifted);
        if (job.draws == 0) continue;
        RunRotations<T> rotations(job, rows, s);
        for (int64_t draw = 0; draw < job.draws; ++draw) rotations.add(draw);
    }
    shifted.finish();
    return fits;
}

bool all_finite(const double* values, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += values[i] * 0;
    return sum == 0;
}

// Sums about the pivots -> central moments, in place. Returns whether float32 would have held the sums well.
template <class T>
bool lift_chunk(const Job& job, double tokens, Scratch& s) {
    const int64_t n = job.neurons;
    double* rows = s.sums;
    double* sum_y = s.delta[0];
    bool well = true;
    std::copy_n(rows + kSumY * n, n, sum_y);
    double* mean_y = s.delta[1];
    std::transform(sum_y, sum_y + n, mean_y, [=](double y) { return y / tokens; });
    lift_shifted(job.params.shifts, n, rows + kSumX * n, mean_y, rows + shifted_row(job.draws) * n);
    // The sum of rotated deviations is the rotation of their sum.
    rotate_row(kernels<double>(job.level), job.plan, job.params.signs, sum_y, s.row, [&](int64_t draw) {
        double* zz = rows + (kRotated + 2 * draw) * n;
        double smallest = std::numeric_limits<double>::infinity(), sum = 0;
        for (int64_t i = 0; i < n; ++i) {
            const double z = s.row.rotated[i];
            well &= held_well(z, zz[i], tokens);
            zz[i] = std::max(0.0, centred(zz[i], z, z, tokens));
            zz[n + i] = centred(zz[n + i], rows[kSumX * n + i], z, tokens);
            smallest = std::min(smallest, zz[i]);
            sum += zz[i];
        }
        well &= sum / static_cast<double>(n) <= kLargestCancellation * tokens * smallest;
    });
    for (int64_t i = 0; i < n; ++i) {
        const ShiftedSums sums = {rows[kSumX * n + i], rows[kSumY * n + i], rows[kSumXX * n + i], rows[kSumYY * n + i],
                                  rows[kSumXY * n + i]};
        well &= held_well(sums.x, sums.xx, tokens) && held_well(sums.y, sums.yy, tokens);
        const PairMoments m =
            lift(sums, static_cast<double>(as<T>(s.pivot[0])[i]), static_cast<double>(as<T>(s.pivot[1])[i]), tokens);
        rows[kMeanA * n + i] = m.mean_x;
        rows[kMeanB * n + i] = m.mean_y;
        rows[kM2A * n + i] = std::max(0.0, m.m2_x);
        rows[kM2B * n + i] = std::max(0.0, m.m2_y);
        rows[kCoAB * n + i] = m.c_xy;
    }
    return well;
}

// What made a sum overflow or NaN: the first NaN or infinity, by token, or else the largest value.
BadValue find_bad(const Job& job, int64_t first, int64_t count, Scratch& s) {
    BadValue largest = {false, job.row(first), 0, 0.0};
    for (int64_t token = first; token < first + count; ++token) {
        for (const bool in_b : {false, true}) {
            const Matrix& matrix = in_b ? job.params.b : job.params.a;
            const double* values = fetch(job, matrix, token, as<double>(s.converted));
            for (int64_t i = 0; i < job.neurons; ++i) {
                const BadValue value = {in_b, job.row(token), i, values[i]};
                if (!std::isfinite(value.value)) return value;
                if (std::abs(value.value) > std::abs(largest.value)) largest = value;
            }
        }
    }
    return largest;
}

}  // namespace

std::optional<BadValue> chunk_moments(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const double tokens = static_cast<double>(count);
    const bool wide = job.params.a.dtype == DType::float64 || job.params.b.dtype == DType::float64;
    if (!wide && sum_chunk<float>(job, first, count, s) && lift_chunk<float>(job, tokens, s)) return std::nullopt;
    sum_chunk<double>(job, first, count, s);
    if (!all_finite(s.sums, job.rows() * job.neurons)) return find_bad(job, first, count, s);
    lift_chunk<double>(job, tokens, s);
    return std::nullopt;
}

int64_t scratch_size(int64_t neurons, int64_t draws, const Shifts& shifts) {
    const int64_t rotated = draws > 0 ? kRunTokens * (mid_bytes(neurons) + piece<double>(neurons)) : 0;
    return piece<double>(moment_rows(draws, shifts) * neurons) + 4 * piece<double>(neurons) +
           RowScratch<double>::size(neurons) + piece<double>(2 * kRunTokens * neurons) + rotated +
           shifted_size(shifts, neurons);
}

Scratch take_scratch(Workspace& workspace, int64_t neurons, int64_t draws, const Shifts& shifts) {
    const auto take = [&](int64_t count) { return reinterpret_cast<std::byte*>(workspace.take<double>(count)); };
    Scratch s = {};
    s.sums = workspace.take<double>(moment_rows(draws, shifts) * neurons);
    for (auto& delta : s.delta) delta = workspace.take<double>(neurons);
    s.row = RowScratch<double>::take(workspace, neurons);
    for (auto& pivot : s.pivot) pivot = take(neurons);
    s.converted = take(2 * kRunTokens * neurons);
    if (draws > 0) {
        s.mid = workspace.take<std::byte>(kRunTokens * mid_bytes(neurons));
        s.rotated = take(kRunTokens * neurons);
    }
    s.shifted = take_shifted(workspace, shifts, neurons);
    return s;
}

void merge_moments(const Job& job, double* into, double n_into, const double* from, double n_from, Scratch& s) {
    const int64_t n = job.neurons;
    double *const delta_a = s.delta[0], *const delta_b = s.delta[1];
    for (int64_t i = 0; i < n; ++i) {
        delta_a[i] = from[kMeanA * n + i] - into[kMeanA * n + i];
        delta_b[i] = from[kMeanB * n + i] - into[kMeanB * n + i];
    }
    const int64_t shifted = shifted_row(job.draws) * n;
    merge_shifted(job.params.shifts, n, delta_a, delta_b, into + shifted, n_into, from + shifted, n_from);
    rotate_row(kernels<double>(job.level), job.plan, job.params.signs, delta_b, s.row, [&](int64_t draw) {
        const int64_t at = (kRotated + 2 * draw) * n;
        for (int64_t i = 0; i < n; ++i) {
            const double delta_z = s.row.rotated[i];
            into[at + i] += from[at + i] + between(delta_z, delta_z, n_into, n_from);
            into[at + n + i] += from[at + n + i] + between(delta_a[i], delta_z, n_into, n_from);
        }
    });
    for (int64_t i = 0; i < n; ++i) {
        const auto read = [&](const double* rows) -> PairMoments {
            return {rows[kMeanA * n + i], rows[kMeanB * n + i], rows[kM2A * n + i], rows[kM2B * n + i],
                    rows[kCoAB * n + i]};
        };
        const PairMoments m = merge(read(into), read(from), n_into, n_from);
        into[kMeanA * n + i] = m.mean_x;
        into[kMeanB * n + i] = m.mean_y;
        into[kM2A * n + i] = m.m2_x;
        into[kM2B * n + i] = m.m2_y;
        into[kCoAB * n + i] = m.c_xy;
    }
}

Job::Job(const PairedParams& p)
    : params(p), level(active_level()), plan(rotation_plan(p.a.columns)), neurons(p.a.columns), draws(p.signs.draws) {}

}  // namespace univfast::cpu
