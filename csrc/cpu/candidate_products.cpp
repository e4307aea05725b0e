// Sums of products of some pairs. A thread owns rows of x and all of their pairs, so nothing is merged.
#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "kernels.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Rows of x that a thread takes at a time.
constexpr int64_t kTaskRows = 16;
// Pairs of a row that are multiplied before they are added.
constexpr int64_t kBatch = 256;

// Whether the pairs of some rows are within the arrays.
bool within(const CandidateProductsParams& p, int64_t first, int64_t end) {
    const int64_t* starts = p.pairs.starts;
    if (starts[first] < 0 || starts[end] > p.pairs.count) return false;
    for (int64_t i = first; i < end; ++i) {
        if (starts[i + 1] < starts[i]) return false;
    }
    return std::all_of(p.pairs.places + starts[first], p.pairs.places + starts[end],
                       [&](int64_t place) { return place >= 0 && place < p.y.rows; });
}

template <class T>
void add_rows(const CandidateProductsParams& p, const Level& level, int64_t first, int64_t end) {
    T products[kBatch];
    const auto& multiply = kernels<T>(level).row_products;
    const T* y = static_cast<const T*>(p.y.data);
    for (int64_t i = first; i < end; ++i) {
        const T* x = static_cast<const T*>(p.x.data) + i * p.x.row_stride;
        for (int64_t k = p.pairs.starts[i]; k < p.pairs.starts[i + 1]; k += kBatch) {
            const int64_t* places = p.pairs.places + k;
            const int64_t count = std::min(kBatch, p.pairs.starts[i + 1] - k);
            multiply(x, y, p.y.row_stride, p.x.columns, places, count, products);
            for (int64_t n = 0; n < count; ++n) {
                const int64_t j = places[n];
                p.sums[k + n] += static_cast<double>(products[n]) * (p.row_scale[i] * p.column_scale[j]) +
                                 p.row_delta[i] * p.column_delta[j];
            }
        }
    }
}

template <class T>
void add_all(const CandidateProductsParams& p) {
    const Level& level = active_level();
    const int64_t tasks = (p.x.rows + kTaskRows - 1) / kTaskRows;
    const int threads = useful_threads(p.threads, tasks, p.pairs.count * p.x.columns);
    std::atomic<bool> broken = false;
    parallel_for(tasks, threads, [&](int64_t task, int) {
        const int64_t first = task * kTaskRows, end = std::min(p.x.rows, first + kTaskRows);
        if (!within(p, first, end)) {
            broken = true;
            return;
        }
        add_rows<T>(p, level, first, end);
    });
    if (broken) throw std::invalid_argument("candidate_products: starts must not decrease, and places be rows of y");
}

}  // namespace
}  // namespace cpu

void candidate_products(const CandidateProductsParams& params) {
    const Matrix &x = params.x, &y = params.y;
    if (params.threads < 1 || x.columns != y.columns || x.dtype != y.dtype) {
        throw std::invalid_argument("candidate_products: x and y must have as many tokens and one dtype");
    }
    switch (x.dtype) {
        case DType::float64:
            return cpu::add_all<double>(params);
        case DType::float32:
            return cpu::add_all<float>(params);
        default:
            throw std::invalid_argument("candidate_products: x must be float32 or float64");
    }
}

}  // namespace univfast
