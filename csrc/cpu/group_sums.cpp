// Sums of each neuron over the tokens of each group. A thread owns neurons, so nothing is merged.
#include <algorithm>
#include <stdexcept>

#include "kernels.h"
#include "matrix.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Neurons that one task sums: the more, the longer the pieces of rows that memory gives; and their sums fit a core's
// L1.
constexpr int64_t kLargestStrip = 2048;
constexpr int64_t kLeastStrip = 256;

int64_t strip_width(int64_t neurons, int threads) {
    const int64_t share = (neurons + threads - 1) / threads;
    return std::clamp((share + kLeastStrip - 1) / kLeastStrip * kLeastStrip, kLeastStrip, kLargestStrip);
}

template <class T>
void add_strip(const GroupSumsParams& p, const Level& level, int64_t first, int64_t width) {
    T converted[kLargestStrip];
    double sums[kLargestStrip];
    const auto& add = kernels<T>(level).add_deviations;
    for (int64_t t = 0; t < p.tokens_used;) {
        const int64_t group = p.groups[t];
        double* to = p.sums + group * p.sums_stride + first;
        for (int64_t i = 0; i < width; i += 8) __builtin_prefetch(to + i, 1, 2);
        std::fill_n(sums, width, 0.0);
        for (; t < p.tokens_used && p.groups[t] == group; ++t) {
            if (t + 1 < p.tokens_used) prefetch_row(p.x, p.rows[t + 1], first, width);
            add(fetch_row(level, p.x, p.rows[t], first, width, converted), p.pivot + first, width, sums);
        }
        for (int64_t i = 0; i < width; ++i) to[i] += sums[i];
    }
}

void check(const GroupSumsParams& p) {
    if (p.x.columns < 1 || p.tokens_used < 0 || p.threads < 1) {
        throw std::invalid_argument("group_sums: neurons and threads must be at least 1");
    }
    for (int64_t t = 0; t < p.tokens_used; ++t) {
        if (p.rows[t] < 0 || p.rows[t] >= p.x.rows) throw std::invalid_argument("rows: not a row of x");
        if (p.groups[t] < 0 || p.groups[t] >= p.count) throw std::invalid_argument("groups: not a row of sums");
    }
}

}  // namespace
}  // namespace cpu

void group_sums(const GroupSumsParams& params) {
    using namespace cpu;
    check(params);
    const Level& level = active_level();
    const int64_t neurons = params.x.columns;
    const int threads = useful_threads(params.threads, neurons, params.tokens_used * neurons);
    const int64_t strip = strip_width(neurons, threads);
    parallel_for((neurons + strip - 1) / strip, threads, [&](int64_t number, int) {
        const int64_t first = number * strip, width = std::min(strip, neurons - first);
        if (params.x.dtype == DType::float64) {
            add_strip<double>(params, level, first, width);
        } else {
            add_strip<float>(params, level, first, width);
        }
    });
}

}  // namespace univfast
