// Each neuron by itself: its moments, and its values standardised.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "matrix.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Neurons that one task reads, over all tokens: whole cache lines of every dtype, and their float64 state and a run of
// converted tokens fit a core's L1.
constexpr int64_t kStrip = 256;

template <class T>
void strip_moments(const NeuronParams& p, const Level& level, int64_t first, int64_t width) {
    T converted[kRunTokens * kStrip];
    const T* rows[kRunTokens];
    std::fill_n(p.mean + first, width, 0.0);
    std::fill_n(p.m2 + first, width, 0.0);
    for (int64_t token = 0; token < p.x.rows; token += kRunTokens) {
        const int tokens = static_cast<int>(std::min<int64_t>(kRunTokens, p.x.rows - token));
        for (int t = 0; t < tokens; ++t) {
            rows[t] = fetch_row(level, p.x, token + t, first, width, converted + t * kStrip);
        }
        kernels<T>(level).moments_run(rows, tokens, width, static_cast<double>(token), p.mean + first, p.m2 + first);
    }
}

// What made a moment NaN or infinite: the first NaN or infinity, by token, or else the largest value.
BadValue find_bad(const NeuronParams& p, const Level& level) {
    std::vector<double> row(static_cast<size_t>(p.x.columns));
    BadValue largest = {false, 0, 0, 0.0};
    for (int64_t token = 0; token < p.x.rows; ++token) {
        const double* values = fetch_row(level, p.x, token, 0, p.x.columns, row.data());
        for (int64_t i = 0; i < p.x.columns; ++i) {
            const BadValue value = {false, token, i, values[i]};
            if (!std::isfinite(value.value)) return value;
            if (std::abs(value.value) > std::abs(largest.value)) largest = value;
        }
    }
    return largest;
}

template <class T>
void standardise_rows(const StandardiseParams& p, const Level& level) {
    const int64_t strips = (p.x.columns + kStrip - 1) / kStrip;
    const int threads = useful_threads(p.threads, p.x.rows, p.x.rows * p.x.columns);
    parallel_for(p.x.rows, threads, [&](int64_t token, int) {
        T converted[kStrip];
        T* output = static_cast<T*>(p.output) + token * p.output_stride;
        for (int64_t strip = 0; strip < strips; ++strip) {
            const int64_t first = strip * kStrip, width = std::min(kStrip, p.x.columns - first);
            const T* values = fetch_row(level, p.x, token, first, width, converted);
            kernels<T>(level).standardise(values, p.mean + first, p.scale + first, width, output + first);
        }
    });
}

}  // namespace
}  // namespace cpu

std::optional<BadValue> neuron_moments(const NeuronParams& params) {
    using namespace cpu;
    const int64_t tokens = params.x.rows, neurons = params.x.columns;
    if (tokens < 1 || neurons < 1 || params.threads < 1) {
        throw std::invalid_argument("neuron_moments: tokens, neurons and threads must be at least 1");
    }
    const Level& level = active_level();
    const int64_t strips = (neurons + kStrip - 1) / kStrip;
    parallel_for(strips, useful_threads(params.threads, strips, tokens * neurons), [&](int64_t strip, int) {
        const int64_t first = strip * kStrip, width = std::min(kStrip, neurons - first);
        if (params.x.dtype == DType::float64) {
            strip_moments<double>(params, level, first, width);
        } else {
            strip_moments<float>(params, level, first, width);
        }
    });
    const bool finite = std::all_of(params.m2, params.m2 + neurons, [](double m2) { return std::isfinite(m2); });
    return finite ? std::nullopt : std::optional(find_bad(params, level));
}

void standardise(const StandardiseParams& params) {
    if (params.threads < 1) throw std::invalid_argument("standardise: threads must be at least 1");
    switch (params.output_dtype) {
        case DType::float64:
            return cpu::standardise_rows<double>(params, cpu::active_level());
        case DType::float32:
            if (params.x.dtype == DType::float64) break;
            return cpu::standardise_rows<float>(params, cpu::active_level());
        default:
            break;
    }
    throw std::invalid_argument("standardise: the output must be float64, or float32 where x is not float64");
}

}  // namespace univfast
