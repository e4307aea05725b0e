// Each neuron by itself, its tokens next to each other.
#include <algorithm>
#include <stdexcept>

#include "kernels.h"
#include "matrix.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Neurons of a task, and tokens that it takes at a time: whole cache lines of every dtype on both sides, and 64 KB of
// float64 in L2.
constexpr int64_t kNeurons = 64;
constexpr int64_t kTokens = 128;

template <class T>
void transpose_strip(const StandardiseParams& p, const Level& level, int64_t first, int64_t width) {
    T converted[kNeurons];
    T rows[kTokens * kNeurons];
    const Kernels<T>& kernel = kernels<T>(level);
    T* output = static_cast<T*>(p.output) + first * p.output_stride;
    for (int64_t token = 0; token < p.x.rows; token += kTokens) {
        const int64_t tokens = std::min(kTokens, p.x.rows - token);
        for (int64_t t = 0; t < tokens; ++t) {
            const T* values = fetch_row(level, p.x, token + t, first, width, converted);
            kernel.standardise(values, p.mean + first, p.scale + first, width, rows + t * kNeurons);
        }
        kernel.transpose(rows, kNeurons, tokens, width, output + token, p.output_stride);
    }
}

template <class T>
void transpose_all(const StandardiseParams& p) {
    const Level& level = active_level();
    const int64_t strips = (p.x.columns + kNeurons - 1) / kNeurons;
    const int threads = useful_threads(p.threads, strips, p.x.rows * p.x.columns);
    parallel_for(strips, threads, [&](int64_t strip, int) {
        const int64_t first = strip * kNeurons;
        transpose_strip<T>(p, level, first, std::min(kNeurons, p.x.columns - first));
    });
}

}  // namespace
}  // namespace cpu

void standardise_transposed(const StandardiseParams& params) {
    if (params.threads < 1) throw std::invalid_argument("standardise_transposed: threads must be at least 1");
    switch (params.output_dtype) {
        case DType::float64:
            return cpu::transpose_all<double>(params);
        case DType::float32:
            if (params.x.dtype == DType::float64) break;
            return cpu::transpose_all<float>(params);
        default:
            break;
    }
    throw std::invalid_argument(
        "standardise_transposed: the output must be float64, or float32 where x is not float64");
}

}  // namespace univfast
