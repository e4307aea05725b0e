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

// Tokens whose mean is the pivot. More come nearer to the mean, fewer are read twice.
constexpr int64_t kPivotTokens = 16;

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

// The token that sample i of so many takes from a chunk: one from each equal share, at an irregular place, so
// that what recurs in the data (the starts of sequences, say) does not fall on many samples.
int64_t sampled_token(int64_t i, int64_t samples, int64_t count) {
    const int64_t begin = i * count / samples, end = (i + 1) * count / samples;
    return begin + static_cast<int64_t>(mix64(static_cast<uint64_t>(i)) % static_cast<uint64_t>(end - begin));
}

// pivot = the mean of some of the chunk's tokens, taken from the first of them: exactly the value where a neuron is
// constant, so that its deviations, and its variance, are exactly zero. Returns whether their squares fit T.
template <class T>
bool take_pivot(const Job& job, const Matrix& matrix, int64_t first, int64_t count, T* pivot, Scratch& s) {
    const int64_t samples = std::min(count, kPivotTokens);
    T* shift = as<T>(s.run_sums[0]);
    T* span = as<T>(s.run_sums[1]);
    for (int64_t k = 0; k < samples; ++k) {
        const int64_t token = first + sampled_token(k, samples, count);
        const T* values = fetch(job, matrix, token, as<T>(s.converted[0]));
        if (k == 0) {
            std::copy_n(values, job.neurons, pivot);
            std::fill_n(shift, job.neurons, T(0));
            std::fill_n(span, job.neurons, T(0));
            continue;
        }
        for (int64_t i = 0; i < job.neurons; ++i) {
            const T deviation = values[i] - pivot[i];
            shift[i] += deviation;
            span[i] = std::max(span[i], std::abs(deviation));
        }
    }
    bool fits = true;
    for (int64_t i = 0; i < job.neurons; ++i) {
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
        const float* values = fetch(job, job.params.b, token, as<float>(s.converted[0]));
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
    const T* a[kRunTokens];
    const T* b[kRunTokens];
    int tokens;
};

template <class T>
Rows<T> fetch_rows(const Job& job, int64_t first, int tokens, Scratch& s) {
    Rows<T> rows;
    rows.tokens = tokens;
    for (int t = 0; t < tokens; ++t) {
        rows.a[t] = fetch(job, job.params.a, first + t, as<T>(s.converted[0]) + t * job.neurons);
        rows.b[t] = fetch(job, job.params.b, first + t, as<T>(s.converted[1]) + t * job.neurons);
    }
    return rows;
}

template <class T>
void add_pairs(const Job& job, const Rows<T>& rows, Scratch& s) {
    Run<T> run;
    std::copy_n(rows.a, rows.tokens, run.a);
    std::copy_n(rows.b, rows.tokens, run.b);
    run.dtype = kDType<T>;
    run.tokens = rows.tokens;
    run.pivot_a = as<T>(s.pivot[0]);
    run.pivot_b = as<T>(s.pivot[1]);
    kernels<T>(job.level).paired_run(run, job.neurons, s.sums, job.neurons);
}

// The same of 16-bit inputs as they are.
void add_narrow_pairs(const Job& job, int64_t first, int tokens, Scratch& s) {
    Run<float> run;
    for (int t = 0; t < tokens; ++t) {
        run.a[t] = row_at(job.params.a, job.row(first + t), 0);
        run.b[t] = row_at(job.params.b, job.row(first + t), 0);
    }
    run.dtype = job.params.a.dtype;
    run.tokens = tokens;
    run.pivot_a = as<float>(s.pivot[0]);
    run.pivot_b = as<float>(s.pivot[1]);
    kernels<float>(job.level).paired_run(run, job.neurons, s.sums, job.neurons);
}

// The rows of the run behind this one, if there is one.
struct NextRun {
    Ahead a[kRunTokens], b[kRunTokens];
};

NextRun next_run(const Job& job, int64_t begin, int64_t end) {
    NextRun next;
    for (int t = 0; t < kRunTokens && begin + t < end; ++t) {
        const auto ahead = [&](const Matrix& matrix) {
            return Ahead{row_at(matrix, job.row(begin + t), 0), element_size(matrix.dtype)};
        };
        next.a[t] = ahead(job.params.a);
        next.b[t] = ahead(job.params.b);
    }
    return next;
}

// Adds the rotations of a run's tokens. float32 rounds a rotated token in proportion to the whole token's size. Where
// one is far larger than the others (as the first of a sequence can be), that drowns a rotated neuron in which it
// happens to cancel; such a token is rotated in float64.
template <class T>
class RunRotations {
 public:
    RunRotations(const Job& job, const Rows<T>& rows, const NextRun& next, Scratch& s)
        : job_(job), rows_(rows), next_(next), s_(s) {
        for (int t = 0; t < rows.tokens; ++t) start(t);
    }

    void add(int64_t draw) {
        const float* signs = draw_signs(job_.params.signs, draw, job_.neurons);
        const int64_t part = job_.plan.part;
        T* zz = as<T>(s_.run_sums[0]);
        T* xz = as<T>(s_.run_sums[1]);
        double* sums = s_.sums + (kRotated + 2 * draw) * job_.neurons;
        for (int64_t first = 0; first < job_.neurons; first += part) {
            RotatedRun<T> run;
            run.tokens = rows_.tokens;
            run.pivot_a = as<T>(s_.pivot[0]) + first;
            for (int t = 0; t < rows_.tokens; ++t) {
                run.a[t] = rows_.a[t] + first;
                run.z[t] = finish(t, signs, first, draw == 0 ? next_.a[t] : Ahead{});
            }
            kernels_.rotated_run(run, part, zz, xz);
            kernels_.flush(zz, sums + first, part);
            kernels_.flush(xz, sums + job_.neurons + first, part);
        }
    }

 private:
    void start(int t) {
        const T* pivot = as<T>(s_.pivot[1]);
        const float* signs = first_signs(job_.params.signs);
        const T square = kernels_.rotate_first(job_.plan, rows_.b[t], pivot, signs, next_.b[t], mid<T>(t));
        large_[t] = std::is_same_v<T, float> && !(square <= kLargeToken * s_.usual_square);
        if (!large_[t]) return;
        for (int64_t i = 0; i < job_.neurons; ++i) {
            s_.delta[i] = static_cast<double>(rows_.b[t][i]) - static_cast<double>(pivot[i]);
        }
        kernels<double>(job_.level).rotate_first(job_.plan, s_.delta, nullptr, signs, {}, mid<double>(t));
    }

    // A part of a token's second round.
    const T* finish(int t, const float* signs, int64_t first, const Ahead& ahead) {
        const int64_t part = job_.plan.part;
        T* z = as<T>(s_.rotated) + t * part;
        if (large_[t]) {
            kernels<double>(job_.level).rotate_second(job_.plan, mid<double>(t), signs, first, ahead, s_.delta);
            std::transform(s_.delta, s_.delta + part, z, [](double value) { return static_cast<T>(value); });
        } else {
            kernels_.rotate_second(job_.plan, mid<T>(t), signs, first, ahead, z);
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
    const NextRun& next_;
    Scratch& s_;
    const Kernels<T>& kernels_ = kernels<T>(job_.level);
    bool large_[kRunTokens];
};

bool is_narrow(DType dtype) { return dtype == DType::float16 || dtype == DType::bfloat16; }

// s.sums and s.pivot of tokens first .. first + count. Returns false where squares are known not to fit T.
template <class T>
bool sum_chunk(const Job& job, int64_t first, int64_t count, Scratch& s) {
    const PairedParams& p = job.params;
    std::fill_n(s.sums, moment_rows(job.draws) * job.neurons, 0.0);
    bool fits = take_pivot(job, p.a, first, count, as<T>(s.pivot[0]), s);
    fits &= take_pivot(job, p.b, first, count, as<T>(s.pivot[1]), s);
    if constexpr (std::is_same_v<T, float>) {
        if (job.draws > 0) take_usual_square(job, first, count, s);
    }
    for (std::byte* sums : s.run_sums) std::fill_n(as<T>(sums), job.neurons, T(0));

    const bool direct = std::is_same_v<T, float> && job.draws == 0 && p.a.dtype == p.b.dtype && is_narrow(p.a.dtype);
    for (int64_t token = first; token < first + count; token += kRunTokens) {
        const int tokens = static_cast<int>(std::min<int64_t>(kRunTokens, first + count - token));
        if (direct) {
            add_narrow_pairs(job, token, tokens, s);
            continue;
        }
        const Rows<T> rows = fetch_rows<T>(job, token, tokens, s);
        add_pairs(job, rows, s);
        if (job.draws == 0) continue;
        const NextRun next = next_run(job, token + kRunTokens, first + count);
        RunRotations<T> rotations(job, rows, next, s);
        for (int64_t draw = 0; draw < job.draws; ++draw) rotations.add(draw);
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
            const double* values = fetch(job, matrix, token, as<double>(s.converted[0]));
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
    if (!all_finite(s.sums, moment_rows(job.draws) * job.neurons)) return find_bad(job, first, count, s);
    lift_chunk<double>(job, tokens, s);
    return std::nullopt;
}

int64_t scratch_size(int64_t neurons, int64_t draws) {
    const int64_t rotated = draws > 0 ? kRunTokens * (mid_bytes(neurons) + piece<double>(neurons)) : 0;
    return piece<double>(moment_rows(draws) * neurons) + 5 * piece<double>(neurons) +
           RowScratch<double>::size(neurons) + 2 * piece<double>(kRunTokens * neurons) + rotated;
}

Scratch take_scratch(Workspace& workspace, int64_t neurons, int64_t draws) {
    const auto take = [&](int64_t count) { return reinterpret_cast<std::byte*>(workspace.take<double>(count)); };
    Scratch s = {};
    s.sums = workspace.take<double>(moment_rows(draws) * neurons);
    s.delta = workspace.take<double>(neurons);
    s.row = RowScratch<double>::take(workspace, neurons);
    for (int side = 0; side < 2; ++side) {
        s.pivot[side] = take(neurons);
        s.converted[side] = take(kRunTokens * neurons);
        s.run_sums[side] = take(neurons);
    }
    if (draws > 0) {
        s.mid = workspace.take<std::byte>(kRunTokens * mid_bytes(neurons));
        s.rotated = take(kRunTokens * neurons);
    }
    return s;
}

void merge_moments(const Job& job, double* into, double n_into, const double* from, double n_from, Scratch& s) {
    const int64_t n = job.neurons;
    for (int64_t i = 0; i < n; ++i) s.delta[i] = from[kMeanB * n + i] - into[kMeanB * n + i];
    rotate_row(kernels<double>(job.level), job.plan, job.params.signs, s.delta, s.row, [&](int64_t draw) {
        const int64_t at = (kRotated + 2 * draw) * n;
        for (int64_t i = 0; i < n; ++i) {
            const double delta_z = s.row.rotated[i];
            const double delta_a = from[kMeanA * n + i] - into[kMeanA * n + i];
            into[at + i] += from[at + i] + between(delta_z, delta_z, n_into, n_from);
            into[at + n + i] += from[at + n + i] + between(delta_a, delta_z, n_into, n_from);
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
