// All pairs: co-moments gathered from products, and reduced row by row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "../best.h"
#include "../workspace.h"
#include "kernels.h"
#include "matrix.h"
#include "parallel.h"
#include "rotations.h"
#include "terms.h"

namespace univfast {
namespace cpu {
namespace {

// Rows that a thread takes at a time.
constexpr int64_t kTaskRows = 16;
// Correlations that are looked at together for one among the highest: most blocks have none.
constexpr int64_t kBlock = 64;
// Parts that the rows of a variance are summed in, which bounds its threads. Fixed, so that the bits do not depend on
// them.
constexpr int64_t kVarianceParts = 16;

constexpr double kNone = -std::numeric_limits<double>::infinity();

int row_threads(const CoMoments& c, int64_t draws, int threads) {
    return useful_threads(threads, (c.rows + kTaskRows - 1) / kTaskRows,
                          c.rows * c.columns * std::max<int64_t>(draws, 1));
}

// task(row, thread) for each row; a thread gets its rows in increasing order.
template <class Task>
void for_rows(int64_t rows, int threads, const Task& task) {
    parallel_for((rows + kTaskRows - 1) / kTaskRows, threads, [&](int64_t index, int thread) {
        const int64_t end = std::min(rows, (index + 1) * kTaskRows);
        for (int64_t row = index * kTaskRows; row < end; ++row) task(row, thread);
    });
}

void check_threads(int threads) {
    if (threads < 1) throw std::invalid_argument("threads: must be at least 1");
}

void check_signs(const CoMoments& c, const Signs& signs) {
    if (c.columns < 1 || signs.draws < 0) throw std::invalid_argument("c, signs: at least one column is needed");
}

template <class T>
void add_product_rows(const AddProductParams& p) {
    for_rows(p.c.rows, row_threads(p.c, 0, p.threads), [&](int64_t row, int) {
        const T* product = static_cast<const T*>(p.product.data) + row * p.product.row_stride;
        add_row(active_level(), p.terms, p.c, row, 0, p.c.columns, product);
    });
}

// What one thread found to be the highest of each column.
struct ColumnBest {
    double* best;
    int64_t* row;
};

void row_best(const BestPairsParams& p, const RowKernels& kernel, int64_t row, const double* r) {
    double* best = p.best + row * p.count;
    int64_t* best_column = p.best_column + row * p.count;
    const double& lowest = best[p.count - 1];
    for (int64_t block = 0; block < p.tile.c.columns; block += kBlock) {
        const int64_t end = std::min(p.tile.c.columns, block + kBlock);
        if (!(kernel.largest(r + block, end - block) > lowest)) continue;
        for (int64_t j = block; j < end; ++j) {
            if (r[j] > lowest) insert(r[j], p.first_column + j, p.count, best, best_column);
        }
    }
}

void merge_columns(const BestPairsParams& p, const std::vector<ColumnBest>& found) {
    for (int64_t j = 0; j < p.tile.c.columns; ++j) {
        double best = kNone;
        int64_t row = -1;
        for (const ColumnBest& one : found) {
            if (one.best[j] > best || (one.best[j] == best && one.row[j] < row)) {
                best = one.best[j];
                row = one.row[j];
            }
        }
        if (best > p.column_best[j]) {
            p.column_best[j] = best;
            p.best_row[j] = row;
        }
    }
}

// The largest of z[j] * column_inverse[j], without j = skip.
double largest_but(const RowKernels& kernel, const double* z, const double* column_inverse, int64_t count,
                   int64_t skip) {
    if (skip < 0 || skip >= count) return kernel.largest_scaled(z, column_inverse, count);
    return std::max(kernel.largest_scaled(z, column_inverse, skip),
                    kernel.largest_scaled(z + skip + 1, column_inverse + skip + 1, count - skip - 1));
}

}  // namespace
}  // namespace cpu

void add_product(const AddProductParams& params) {
    cpu::check_threads(params.threads);
    cpu::check_terms(params.terms);
    if (params.product.rows != params.c.rows || params.product.columns != params.c.columns) {
        throw std::invalid_argument("add_product: product and c must have one shape");
    }
    switch (params.product.dtype) {
        case DType::float32:
            return cpu::add_product_rows<float>(params);
        case DType::float64:
            return cpu::add_product_rows<double>(params);
        default:
            throw std::invalid_argument("add_product: product must be float32 or float64");
    }
}

int64_t best_pairs_workspace(const CoMoments& c, int threads) {
    cpu::check_threads(threads);
    return cpu::row_threads(c, 0, threads) * (2 * piece<double>(c.columns) + piece<int64_t>(c.columns));
}

void best_pairs(const BestPairsParams& params) {
    using namespace cpu;
    const Tile& tile = params.tile;
    check_threads(tile.threads);
    if (params.count < 1) throw std::invalid_argument("best_pairs: count must be at least 1");
    const int64_t columns = tile.c.columns;
    const RowKernels& kernel = active_level().rows;
    const int threads = row_threads(tile.c, 0, tile.threads);
    Workspace workspace(params.workspace, params.workspace_size);
    std::vector<double*> scratch;
    std::vector<ColumnBest> found;
    for (int thread = 0; thread < threads; ++thread) {
        scratch.push_back(workspace.take<double>(columns));
        found.push_back({workspace.take<double>(columns), workspace.take<int64_t>(columns)});
        std::fill_n(found.back().best, columns, kNone);
        std::fill_n(found.back().row, columns, -1);
    }
    for_rows(tile.c.rows, threads, [&](int64_t row, int thread) {
        double* r = scratch[thread];
        kernel.correlations(tile.c.data + row * tile.c.row_stride, tile.row_inverse[row], params.column_inverse,
                            columns, r);
        const int64_t skip = tile.skip ? tile.skip[row] : -1;
        if (skip >= 0 && skip < columns) r[skip] = std::numeric_limits<double>::quiet_NaN();
        row_best(params, kernel, row, r);
        if (params.column_best) {
            kernel.raise(r, params.first_row + row, columns, found[thread].best, found[thread].row);
        }
    });
    if (params.column_best) merge_columns(params, found);
}

int64_t rotated_best_workspace(const CoMoments& c, int threads) {
    cpu::check_threads(threads);
    return threads * cpu::RowScratch<double>::size(c.columns);
}

void rotated_best(const RotatedBestParams& params) {
    using namespace cpu;
    const Tile& tile = params.tile;
    check_threads(tile.threads);
    check_signs(tile.c, params.signs);
    const int64_t columns = tile.c.columns, draws = params.signs.draws;
    const Level& level = active_level();
    const RotationPlan plan = rotation_plan(columns);
    const int threads = row_threads(tile.c, draws, tile.threads);
    Workspace workspace(params.workspace, params.workspace_size);
    std::vector<RowScratch<double>> scratch;
    for (int thread = 0; thread < threads; ++thread) scratch.push_back(RowScratch<double>::take(workspace, columns));
    for_rows(tile.c.rows, threads, [&](int64_t row, int thread) {
        if (std::isnan(tile.row_inverse[row])) return;
        const RowScratch<double>& s = scratch[thread];
        rotate_row(level.float64, plan, params.signs, tile.c.data + row * tile.c.row_stride, s, [&](int64_t draw) {
            const double largest = largest_but(level.rows, s.rotated, params.column_inverse + draw * columns, columns,
                                               tile.skip ? tile.skip[row] : -1);
            double& best = params.best[draw * params.best_stride + row];
            if (largest > kNone) best = std::max(best, std::clamp(largest * tile.row_inverse[row], -1.0, 1.0));
            const int64_t single = params.single ? params.single[row] : -1;
            if (single < 0) return;
            const double scaled = s.rotated[single] * params.column_inverse[draw * columns + single];
            params.single_r[draw * params.single_stride + row] = std::clamp(scaled * tile.row_inverse[row], -1.0, 1.0);
        });
    });
}

int64_t rotated_variance_workspace(const CoMoments& c, int64_t draws, int threads) {
    using namespace cpu;
    check_threads(threads);
    const int64_t sums = draws * kVarianceParts * piece<double>(c.columns);
    return threads * (piece<double>(c.columns) + 2 * RowScratch<double>::size(c.columns)) + sums;
}

void rotated_variance(const RotatedVarianceParams& params) {
    using namespace cpu;
    const CoMoments& c = params.c;
    check_threads(params.threads);
    check_signs(c, params.signs);
    if (c.rows != c.columns) throw std::invalid_argument("rotated_variance: c must be square");
    const int64_t n = c.columns, draws = params.signs.draws;
    const Level& level = active_level();
    const RotationPlan plan = rotation_plan(n);
    const int threads = useful_threads(params.threads, kVarianceParts, 2 * draws * n * n);
    struct Scratch {
        double* unit;  // [n]
        RowScratch<double> unit_row, row;
    };
    Workspace workspace(params.workspace, params.workspace_size);
    std::vector<Scratch> scratch;
    for (int thread = 0; thread < threads; ++thread) {
        double* unit = workspace.take<double>(n);
        std::fill_n(unit, n, 0.0);
        const auto unit_row = RowScratch<double>::take(workspace, n);
        scratch.push_back({unit, unit_row, RowScratch<double>::take(workspace, n)});
    }
    std::vector<double*> sums;  // [parts * draws] of [n]
    for (int64_t i = 0; i < kVarianceParts * draws; ++i) sums.push_back(workspace.take<double>(n));

    // R c R^T at (j, j) is the sum over k of R[j, k] (R c)[j, k], and c is symmetric: both are element j of a rotated
    // row, of unit vector k and of row k of c.
    parallel_for(kVarianceParts, threads, [&](int64_t part, int thread) {
        const Scratch& s = scratch[thread];
        for (int64_t draw = 0; draw < draws; ++draw) std::fill_n(sums[part * draws + draw], n, 0.0);
        for (int64_t k = part * n / kVarianceParts; k < (part + 1) * n / kVarianceParts; ++k) {
            s.unit[k] = 1;
            level.float64.rotate_first(plan, s.unit, nullptr, common_signs(params.signs), s.unit_row.mid);
            s.unit[k] = 0;
            rotate_row(level.float64, plan, params.signs, c.data + k * c.row_stride, s.row, [&](int64_t draw) {
                finish_row(level.float64, plan, s.unit_row.mid, draw_signs(params.signs, draw, n), s.unit_row.rotated);
                level.rows.multiply_add(s.unit_row.rotated, s.row.rotated, n, sums[part * draws + draw]);
            });
        }
    });
    for (int64_t draw = 0; draw < draws; ++draw) {
        for (int64_t i = 0; i < n; ++i) {
            double sum = 0;
            for (int64_t part = 0; part < kVarianceParts; ++part) sum += sums[part * draws + draw][i];
            params.variance[draw * n + i] = std::max(0.0, sum);
        }
    }
}

}  // namespace univfast
