// Sums a chunk about a pivot that it takes for each neuron from its own first tokens, and lifts them to central
// moments: float32 within a run of tokens and float64 between runs, or float64 throughout.
#include "chunk.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "../moments.h"

namespace univfast::cpu {
namespace {

// Neurons that are read together where no rotation needs whole rows: 16 tokens of both inputs fit a core's L2.
constexpr int64_t kStripNeurons = 1024;

// float32 squares below this lose bits to underflow; the chunk is then summed in float64.
constexpr double kSmallestSquare = 1e-36;
// Values beyond this overflow float64 when squared and summed.
constexpr double kLargestValue = 1e150;

int64_t strip_neurons(int64_t neurons, int64_t draws) { return draws > 0 ? neurons : std::min(neurons, kStripNeurons); }

template <class T>
T* as(std::byte* p) {
    return reinterpret_cast<T*>(p);
}

int64_t element_size(DType dtype) {
    switch (dtype) {
        case DType::float64:
            return 8;
        case DType::float32:
            return 4;
        default:
            return 2;
    }
}

const std::byte* row_at(const Matrix& matrix, int64_t row, int64_t neuron) {
    return static_cast<const std::byte*>(matrix.data) + (row * matrix.row_stride + neuron) * element_size(matrix.dtype);
}

template <class T>
constexpr DType kDType = std::is_same_v<T, double> ? DType::float64 : DType::float32;

// Points rows[0 .. count] at the tokens' values from neuron `first` on, as T, converted if they are not.
template <class T>
void fetch(const Job& job, const Matrix& matrix, int64_t token, int count, int64_t first, int64_t strip,
           std::byte* converted, const T** rows) {
    const auto& kernels = cpu::kernels<T>(job.level);
    for (int t = 0; t < count; ++t) {
        const std::byte* values = row_at(matrix, job.row(token + t), first);
        if (matrix.dtype == kDType<T>) {
            rows[t] = reinterpret_cast<const T*>(values);
        } else {
            T* to = as<T>(converted) + t * strip;
            kernels.convert(values, matrix.dtype, to, strip);
            rows[t] = to;
        }
    }
}

// The mean of the first tokens, taken from the first: exactly the value where a neuron is constant, so that its
// deviations, and its variance, are exactly zero.
template <class T>
void take_pivot(const T* const* rows, int count, int64_t neurons, T* pivot) {
    for (int64_t i = 0; i < neurons; ++i) {
        T shift = 0;
        for (int t = 1; t < count; ++t) shift += rows[t][i] - rows[0][i];
        pivot[i] = rows[0][i] + shift / static_cast<T>(count);
    }
}

template <class T>
void add_rotations(const Job& job, const Run<T>& run, Scratch& s) {
    const auto& kernels = cpu::kernels<T>(job.level);
    const int64_t n = job.neurons;
    T* z = as<T>(s.rotated);
    T* zz = as<T>(s.run_sums[0]);
    T* xz = as<T>(s.run_sums[1]);
    for (int64_t draw = 0; draw < job.draws; ++draw) {
        const float* signs = job.signs(draw);
        for (int t = 0; t < run.tokens; ++t) {
            kernels.rotate_row(job.plan, run.b[t], run.pivot_b, signs, z, as<T>(s.spare));
            kernels.accumulate_rotated(z, run.a[t], run.pivot_a, n, zz, xz);
        }
        double* sums = s.sums + (kRotated + 2 * draw) * n;
        kernels.flush(zz, sums, n);
        kernels.flush(xz, sums + n, n);
    }
}

// s.sums and s.pivot of tokens first .. first + count.
template <class T>
void sum_chunk(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const auto& kernels = cpu::kernels<T>(job.level);
    const int64_t n = job.neurons;
    const int64_t strip = strip_neurons(n, job.draws);
    std::fill_n(s.sums, moment_rows(job.draws) * n, 0.0);
    for (std::byte* sums : s.run_sums) std::fill_n(as<T>(sums), n, T(0));

    for (int64_t neuron = 0; neuron < n; neuron += strip) {
        const int64_t width = std::min(strip, n - neuron);
        Run<T> run;
        run.pivot_a = as<T>(s.pivot[0]) + neuron;
        run.pivot_b = as<T>(s.pivot[1]) + neuron;
        for (int64_t token = 0; token < count; token += kRunTokens) {
            run.tokens = static_cast<int>(std::min<int64_t>(kRunTokens, count - token));
            fetch(job, job.params.a, first + token, run.tokens, neuron, width, s.converted[0], run.a);
            fetch(job, job.params.b, first + token, run.tokens, neuron, width, s.converted[1], run.b);
            if (token == 0) {
                take_pivot(run.a, run.tokens, width, as<T>(s.pivot[0]) + neuron);
                take_pivot(run.b, run.tokens, width, as<T>(s.pivot[1]) + neuron);
            }
            kernels.paired_run(run, width, s.sums + neuron, n);
            if (job.draws > 0) add_rotations(job, run, s);
        }
    }
}

// Whether sums of squares `xx` left the range in which T holds them; x is zero where all values are the pivot.
bool out_of_range(double xx, bool varies, double tokens) {
    return !std::isfinite(xx) || (varies && xx < kSmallestSquare * tokens);
}

bool sums_out_of_range(const Job& job, const Scratch& s, double tokens) {
    const int64_t n = job.neurons;
    bool bad = false;
    for (int64_t i = 0; i < n; ++i) {
        bad |= out_of_range(s.sums[kSumXX * n + i], s.sums[kSumX * n + i] != 0, tokens);
        bad |= out_of_range(s.sums[kSumYY * n + i], s.sums[kSumY * n + i] != 0, tokens);
    }
    for (int64_t draw = 0; draw < job.draws; ++draw) {
        const double* zz = s.sums + (kRotated + 2 * draw) * n;
        for (int64_t i = 0; i < n; ++i) bad |= out_of_range(zz[i], zz[i] > 0, tokens);
    }
    return bad;
}

bool all_finite(const double* values, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += values[i] * 0;
    return sum == 0;
}

// Sums about the pivots -> central moments, in place.
template <class T>
void lift_chunk(const Job& job, double tokens, Scratch& s) {
    const int64_t n = job.neurons;
    double* rows = s.sums;
    double* sum_y = s.delta;
    std::copy_n(rows + kSumY * n, n, sum_y);
    for (int64_t draw = 0; draw < job.draws; ++draw) {
        // The sum of rotated deviations is the rotation of their sum.
        kernels<double>(job.level).rotate_row(job.plan, sum_y, nullptr, job.signs(draw), s.rotated_delta,
                                              as<double>(s.spare));
        double* zz = rows + (kRotated + 2 * draw) * n;
        for (int64_t i = 0; i < n; ++i) {
            const double z = s.rotated_delta[i];
            zz[i] = std::max(0.0, centred(zz[i], z, z, tokens));
            zz[n + i] = centred(zz[n + i], rows[kSumX * n + i], z, tokens);
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        const ShiftedSums sums = {rows[kSumX * n + i], rows[kSumY * n + i], rows[kSumXX * n + i], rows[kSumYY * n + i],
                                  rows[kSumXY * n + i]};
        const PairMoments m =
            lift(sums, static_cast<double>(as<T>(s.pivot[0])[i]), static_cast<double>(as<T>(s.pivot[1])[i]), tokens);
        rows[kMeanA * n + i] = m.mean_x;
        rows[kMeanB * n + i] = m.mean_y;
        rows[kM2A * n + i] = std::max(0.0, m.m2_x);
        rows[kM2B * n + i] = std::max(0.0, m.m2_y);
        rows[kCoAB * n + i] = m.c_xy;
    }
}

// The first value, by token, that made a sum overflow or NaN.
std::optional<BadValue> find_bad(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const int64_t strip = strip_neurons(job.neurons, job.draws);
    for (const bool too_large : {false, true}) {
        for (int64_t token = first; token < first + count; ++token) {
            for (const bool in_b : {false, true}) {
                const Matrix& matrix = in_b ? job.params.b : job.params.a;
                for (int64_t i = 0; i < job.neurons; i += strip) {
                    const int64_t width = std::min(strip, job.neurons - i);
                    double* values = as<double>(s.converted[0]);
                    kernels<double>(job.level).convert(row_at(matrix, job.row(token), i), matrix.dtype, values, width);
                    for (int64_t j = 0; j < width; ++j) {
                        const bool bad = too_large ? std::abs(values[j]) > kLargestValue : !std::isfinite(values[j]);
                        if (bad) return BadValue{in_b, job.row(token), i + j, values[j]};
                    }
                }
            }
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<BadValue> chunk_moments(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const double tokens = static_cast<double>(count);
    const bool wide = job.params.a.dtype == DType::float64 || job.params.b.dtype == DType::float64;
    if (!wide) {
        sum_chunk<float>(job, first, count, s);
        if (!sums_out_of_range(job, s, tokens)) {
            lift_chunk<float>(job, tokens, s);
            return std::nullopt;
        }
    }
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
