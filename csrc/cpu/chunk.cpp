// Sums a chunk about a pivot that it takes for each neuron from some of its tokens, and lifts them to central
// moments: float32 within a run of tokens and float64 between runs, or float64 throughout.
#include "chunk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "../moments.h"
#include "matrix.h"

namespace univfast::cpu {
namespace {

// Neurons that are read together where no rotation needs whole rows: 16 tokens of both inputs fit a core's L2.
constexpr int64_t kStripNeurons = 1024;

// Tokens whose mean is the pivot. More come nearer to the mean, fewer are read twice.
constexpr int64_t kPivotTokens = 32;

// A chunk that float32 does not hold well is summed again in float64: where squares are so small that they lose bits
// to underflow, and where the squared distance of pivot and mean is more than this share of the mean square, which
// multiplies the rounding of a variance by 1 / (1 - share).
constexpr double kSmallestDeviation = 1e-18;
constexpr double kSmallestSquare = kSmallestDeviation * kSmallestDeviation;
constexpr double kLargestShift = 0.75;
// A token this many times as large as the usual one, in squares, is rotated in float64.
constexpr double kLargeToken = 16;

// float32 rounds every rotated neuron in proportion to their usual size, at random from token to token, so r of one in
// which the layer cancels is off by about 1.5e-7 * sqrt(usual second moment / its own / tokens). Beyond this ratio,
// which keeps r within 5e-7, the chunk is summed in float64.
constexpr double kLargestCancellation = 8;  // times tokens

int64_t strip_neurons(int64_t neurons, int64_t draws) { return draws > 0 ? neurons : std::min(neurons, kStripNeurons); }

template <class T>
T* as(std::byte* p) {
    return reinterpret_cast<T*>(p);
}

// Points at a token's values from neuron `first` on, as T, converted if they are not.
template <class T>
const T* fetch(const Job& job, const Matrix& matrix, int64_t token, int64_t first, int64_t width, T* converted) {
    return fetch_row(job.level, matrix, job.row(token), first, width, converted);
}

// The token that sample i of so many takes from a chunk: one from each equal share, at an irregular place, so
// that what recurs in the data (the starts of sequences, say) does not fall on many samples.
int64_t sampled_token(int64_t i, int64_t samples, int64_t count) {
    const int64_t begin = i * count / samples, end = (i + 1) * count / samples;
    return begin + static_cast<int64_t>(mix64(static_cast<uint64_t>(i)) % static_cast<uint64_t>(end - begin));
}

// pivot = the mean of some of the chunk's tokens, taken from the first of them: exactly the value where a neuron is
// constant, so that its deviations, and its variance, are exactly zero. Returns whether their squares fit T.
template <class T>
bool take_pivot(const Job& job, const Matrix& matrix, int64_t first, int64_t count, int64_t neuron, int64_t width,
                T* pivot, Scratch& s) {
    const int64_t samples = std::min(count, kPivotTokens);
    T* shift = as<T>(s.rotated);
    T* span = as<T>(s.spare);
    for (int64_t k = 0; k < samples; ++k) {
        const int64_t token = first + sampled_token(k, samples, count);
        const T* values = fetch(job, matrix, token, neuron, width, as<T>(s.converted[0]));
        if (k == 0) {
            std::copy_n(values, width, pivot);
            std::fill_n(shift, width, T(0));
            std::fill_n(span, width, T(0));
            continue;
        }
        for (int64_t i = 0; i < width; ++i) {
            const T deviation = values[i] - pivot[i];
            shift[i] += deviation;
            span[i] = std::max(span[i], std::abs(deviation));
        }
    }
    bool fits = true;
    for (int64_t i = 0; i < width; ++i) {
        pivot[i] += shift[i] / static_cast<T>(samples);
        fits &= span[i] == 0 || span[i] > kSmallestDeviation;
    }
    return fits;
}

// s.usual_square of tokens first .. first + count, from their float32 pivots.
void take_usual_square(const Job& job, int64_t first, int64_t count, Scratch& s) {
    double squares[kPivotTokens];
    const int64_t samples = std::min(count, kPivotTokens);
    for (int64_t k = 0; k < samples; ++k) {
        const int64_t token = first + sampled_token(k, samples, count);
        const float* values = fetch(job, job.params.b, token, 0, job.neurons, as<float>(s.converted[0]));
        squares[k] =
            static_cast<double>(kernels<float>(job.level).squared_distance(values, as<float>(s.pivot[1]), job.neurons));
        if (!std::isfinite(squares[k])) squares[k] = std::numeric_limits<double>::max();
    }
    std::nth_element(squares, squares + samples / 2, squares + samples);
    s.usual_square = squares[samples / 2];
}

// z = R (x - pivot). float32 rounds z in proportion to the whole token's size. Where one token is far larger than
// the others (as the first of a sequence can be), that drowns a rotated neuron in which it happens to cancel; such a
// token is rotated in float64.
template <class T>
void rotate_token(const Job& job, const T* x, const T* pivot, const float* signs, bool large, T* z, Scratch& s) {
    const int64_t n = job.neurons;
    if (!large) return kernels<T>(job.level).rotate_row(job.plan, x, pivot, signs, z, as<T>(s.spare));
    for (int64_t i = 0; i < n; ++i) s.delta[i] = static_cast<double>(x[i]) - static_cast<double>(pivot[i]);
    kernels<double>(job.level).rotate_row(job.plan, s.delta, nullptr, signs, s.rotated_delta, as<double>(s.spare));
    for (int64_t i = 0; i < n; ++i) z[i] = static_cast<T>(s.rotated_delta[i]);
}

template <class T>
void add_rotations(const Job& job, const Run<T>& run, Scratch& s) {
    const auto& kernels = cpu::kernels<T>(job.level);
    const int64_t n = job.neurons;
    T* z = as<T>(s.rotated);
    T* zz = as<T>(s.run_sums[0]);
    T* xz = as<T>(s.run_sums[1]);
    bool large[kRunTokens] = {};
    if constexpr (std::is_same_v<T, float>) {
        for (int t = 0; t < run.tokens; ++t) {
            large[t] = kernels.squared_distance(run.b[t], run.pivot_b, n) > kLargeToken * s.usual_square;
        }
    }
    for (int64_t draw = 0; draw < job.draws; ++draw) {
        const float* signs = job.signs(draw);
        for (int t = 0; t < run.tokens; ++t) {
            rotate_token(job, run.b[t], run.pivot_b, signs, large[t], z, s);
            kernels.accumulate_rotated(z, run.a[t], run.pivot_a, n, zz, xz);
        }
        double* sums = s.sums + (kRotated + 2 * draw) * n;
        kernels.flush(zz, sums, n);
        kernels.flush(xz, sums + n, n);
    }
}

// s.sums and s.pivot of tokens first .. first + count. Returns false where squares are known not to fit T.
template <class T>
bool sum_chunk(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const int64_t n = job.neurons;
    const int64_t strip = strip_neurons(n, job.draws);
    std::fill_n(s.sums, moment_rows(job.draws) * n, 0.0);
    bool fits = true;
    for (int64_t neuron = 0; neuron < n; neuron += strip) {
        const int64_t width = std::min(strip, n - neuron);
        T* pivot_a = as<T>(s.pivot[0]) + neuron;
        T* pivot_b = as<T>(s.pivot[1]) + neuron;
        fits &= take_pivot(job, job.params.a, first, count, neuron, width, pivot_a, s);
        fits &= take_pivot(job, job.params.b, first, count, neuron, width, pivot_b, s);
        if constexpr (std::is_same_v<T, float>) {
            if (job.draws > 0) take_usual_square(job, first, count, s);
        }
        for (std::byte* sums : s.run_sums) std::fill_n(as<T>(sums), width, T(0));

        Run<T> run;
        run.pivot_a = pivot_a;
        run.pivot_b = pivot_b;
        for (int64_t token = first; token < first + count; token += kRunTokens) {
            run.tokens = static_cast<int>(std::min<int64_t>(kRunTokens, first + count - token));
            for (int t = 0; t < run.tokens; ++t) {
                run.a[t] = fetch(job, job.params.a, token + t, neuron, width, as<T>(s.converted[0]) + t * strip);
                run.b[t] = fetch(job, job.params.b, token + t, neuron, width, as<T>(s.converted[1]) + t * strip);
            }
            kernels<T>(job.level).paired_run(run, width, s.sums + neuron, n);
            if (job.draws > 0) add_rotations(job, run, s);
        }
    }
    return fits;
}

// Whether float32 held the sums x and xx of a chunk well: in range, and with a pivot near enough to the mean.
bool held_well(double x, double xx, double tokens) {
    if (x == 0 && xx == 0) return true;
    return std::isfinite(xx) && xx >= kSmallestSquare * tokens && x * x <= kLargestShift * xx * tokens;
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
    double* sum_y = s.delta;
    bool well = true;
    std::copy_n(rows + kSumY * n, n, sum_y);
    for (int64_t draw = 0; draw < job.draws; ++draw) {
        // The sum of rotated deviations is the rotation of their sum.
        kernels<double>(job.level).rotate_row(job.plan, sum_y, nullptr, job.signs(draw), s.rotated_delta,
                                              as<double>(s.spare));
        double* zz = rows + (kRotated + 2 * draw) * n;
        double smallest = std::numeric_limits<double>::infinity(), sum = 0;
        for (int64_t i = 0; i < n; ++i) {
            const double z = s.rotated_delta[i];
            well &= held_well(z, zz[i], tokens);
            zz[i] = std::max(0.0, centred(zz[i], z, z, tokens));
            zz[n + i] = centred(zz[n + i], rows[kSumX * n + i], z, tokens);
            smallest = std::min(smallest, zz[i]);
            sum += zz[i];
        }
        well &= sum / static_cast<double>(n) <= kLargestCancellation * tokens * smallest;
    }
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
    const int64_t strip = strip_neurons(job.neurons, job.draws);
    BadValue largest = {false, job.row(first), 0, 0.0};
    for (int64_t token = first; token < first + count; ++token) {
        for (const bool in_b : {false, true}) {
            const Matrix& matrix = in_b ? job.params.b : job.params.a;
            for (int64_t i = 0; i < job.neurons; i += strip) {
                const int64_t width = std::min(strip, job.neurons - i);
                double* values = as<double>(s.converted[0]);
                kernels<double>(job.level).convert(row_at(matrix, job.row(token), i), matrix.dtype, values, width);
                for (int64_t j = 0; j < width; ++j) {
                    const BadValue value = {in_b, job.row(token), i + j, values[j]};
                    if (!std::isfinite(value.value)) return value;
                    if (std::abs(value.value) > std::abs(largest.value)) largest = value;
                }
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
    if (!all_finite(s.sums, moment_rows(job.draws) * job.neurons)) return find_bad(job, first, count, s);
    lift_chunk<double>(job, tokens, s);
    return std::nullopt;
}

int64_t scratch_size(int64_t neurons, int64_t draws) {
    const int64_t strip = strip_neurons(neurons, draws);
    return piece<double>(moment_rows(draws) * neurons) + 8 * piece<double>(neurons) +
           2 * piece<double>(kRunTokens * strip);
}

Scratch take_scratch(Workspace& workspace, int64_t neurons, int64_t draws) {
    const int64_t strip = strip_neurons(neurons, draws);
    const auto take = [&](int64_t count) { return reinterpret_cast<std::byte*>(workspace.take<double>(count)); };
    Scratch s;
    s.sums = workspace.take<double>(moment_rows(draws) * neurons);
    s.delta = workspace.take<double>(neurons);
    s.rotated_delta = workspace.take<double>(neurons);
    for (auto& pivot : s.pivot) pivot = take(neurons);
    for (auto& rows : s.converted) rows = take(kRunTokens * strip);
    s.rotated = take(neurons);
    s.spare = take(neurons);
    for (auto& sums : s.run_sums) sums = take(neurons);
    return s;
}

void merge_moments(const Job& job, double* into, double n_into, const double* from, double n_from, Scratch& s) {
    const int64_t n = job.neurons;
    for (int64_t i = 0; i < n; ++i) s.delta[i] = from[kMeanB * n + i] - into[kMeanB * n + i];
    for (int64_t draw = 0; draw < job.draws; ++draw) {
        kernels<double>(job.level).rotate_row(job.plan, s.delta, nullptr, job.signs(draw), s.rotated_delta,
                                              as<double>(s.spare));
        const int64_t at = (kRotated + 2 * draw) * n;
        for (int64_t i = 0; i < n; ++i) {
            const double delta_z = s.rotated_delta[i];
            const double delta_a = from[kMeanA * n + i] - into[kMeanA * n + i];
            into[at + i] += from[at + i] + between(delta_z, delta_z, n_into, n_from);
            into[at + n + i] += from[at + n + i] + between(delta_a, delta_z, n_into, n_from);
        }
    }
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
