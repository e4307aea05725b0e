// All pairs: products added to co-moments, the best of rows and columns, and the best of rotations.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "checks.h"

namespace checks {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kNone = -std::numeric_limits<double>::infinity();

using univfast::CoMoments;

size_t at(int64_t row, int64_t columns, int64_t column) { return static_cast<size_t>(row * columns + column); }

// ---- products -------------------------------------------------------------------------------------------

void check_product(int64_t rows, int64_t columns, DType dtype, int64_t deltas, Layout layout) {
    constexpr int64_t kGap = 5;
    Random random(static_cast<uint64_t>(rows + deltas));
    const int64_t stride = columns + kGap;
    std::vector<double> state = random.uniform((rows - 1) * stride + columns);
    const Input product("product", dtype, rows, columns, random.uniform(rows * columns), layout);
    const std::vector<double> row_scale = random.uniform(rows), column_scale = random.uniform(columns);
    const std::vector<double> row_delta = random.uniform(deltas * rows),
                              column_delta = random.uniform(deltas * columns);
    Memory<double> c("c", state);
    const Memory<double> scales[] = {{"row_scale", row_scale}, {"column_scale", column_scale}};
    const Memory<double> moves[] = {{"row_delta", row_delta}, {"column_delta", column_delta}};
    univfast::cuda::add_product({{c.data(), rows, columns, stride},
                                 product.matrix(),
                                 scales[0].data(),
                                 scales[1].data(),
                                 static_cast<int>(deltas),
                                 moves[0].data(),
                                 moves[1].data()},
                                kStream);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            double more = product(i, j) * row_scale[static_cast<size_t>(i)] * column_scale[static_cast<size_t>(j)];
            for (int64_t k = 0; k < deltas; ++k) more += row_delta[at(k, rows, i)] * column_delta[at(k, columns, j)];
            state[at(i, stride, j)] += more;
        }
    }
    expect_near(c.computed(), state, 1e-15 * 4,
                "product of " + std::to_string(rows) + " x " + std::to_string(columns) + ", " + name_of(dtype) + ", " +
                    std::to_string(deltas) + " deltas");
}

void check_products() {
    check_product(5, 300, DType::float32, 0, Layout::plain);
    check_product(7, 33, DType::float32, 1, Layout::backwards);
    check_product(7, 33, DType::float64, 2, Layout::gaps);
    check_product(3, 1, DType::float64, 1, Layout::unaligned);
    check_product(4099, 2, DType::float32, 2, Layout::plain);  // more rows than blocks
    const auto refused = [](DType dtype, int64_t rows, int deltas) {
        return throws<std::invalid_argument>([&] {
            univfast::cuda::add_product(
                {{nullptr, 0, 3, 3}, {nullptr, dtype, rows, 3, 3}, nullptr, nullptr, deltas, nullptr, nullptr},
                kStream);
        });
    };
    expect(!refused(DType::float32, 0, 2), "product: no rows");
    expect(refused(DType::float32, 1, 0), "product: two shapes");
    expect(refused(DType::float32, 0, 3), "product: three deltas");
}

// ---- the best of rows and columns -----------------------------------------------------------------------

struct Best {
    std::vector<double> best, column_best;
    std::vector<int64_t> best_column, best_row;
};

// Correlations [rows, columns], NaN where there is none: of each row the highest, lower columns first.
Best sorted(const std::vector<double>& r, int64_t rows, int64_t columns, int64_t count) {
    Best all = {{},
                std::vector<double>(static_cast<size_t>(columns), kNone),
                {},
                std::vector<int64_t>(static_cast<size_t>(columns), -1)};
    for (int64_t i = 0; i < rows; ++i) {
        std::vector<int64_t> order;
        for (int64_t j = 0; j < columns; ++j) {
            const double own = r[at(i, columns, j)];
            if (std::isnan(own)) continue;
            order.push_back(j);
            const auto column = static_cast<size_t>(j);
            if (own > all.column_best[column]) all.column_best[column] = own, all.best_row[column] = i;
        }
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t p, int64_t q) { return r[at(i, columns, p)] > r[at(i, columns, q)]; });
        for (int64_t k = 0; k < count; ++k) {
            const bool there = k < static_cast<int64_t>(order.size());
            all.best.push_back(there ? r[at(i, columns, order[static_cast<size_t>(k)])] : kNone);
            all.best_column.push_back(there ? order[static_cast<size_t>(k)] : -1);
        }
    }
    return all;
}

std::vector<double> as_numbers(const std::vector<int64_t>& values) { return {values.begin(), values.end()}; }

// In tiles [tile_rows, tile_columns], of co-moments that are few multiples of 1/8, so that there are many ties.
void check_best(int64_t rows, int64_t columns, int64_t count, int64_t tile_rows, int64_t tile_columns, bool skips,
                bool for_columns) {
    Random random(static_cast<uint64_t>(rows * columns + count));
    std::vector<double> c, r(static_cast<size_t>(rows * columns));
    std::vector<double> row_inverse(static_cast<size_t>(rows), 0.5), column_inverse(static_cast<size_t>(columns), 2);
    for (size_t i = 0; i < r.size(); ++i) c.push_back(static_cast<double>(random.bits() % 21) / 8 - 1.25);
    row_inverse[static_cast<size_t>(rows / 2)] = kNaN;
    column_inverse[static_cast<size_t>(columns / 3)] = kNaN;
    std::vector<int64_t> skip;
    for (int64_t i = 0; i < rows; ++i) skip.push_back(i % columns);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            const double own =
                c[at(i, columns, j)] * row_inverse[static_cast<size_t>(i)] * column_inverse[static_cast<size_t>(j)];
            const bool skipped = skips && skip[static_cast<size_t>(i)] == j;
            r[at(i, columns, j)] = std::isnan(own) || skipped ? kNaN : std::clamp(own, -1.0, 1.0);
        }
    }
    const Best expected = sorted(r, rows, columns, count);

    Best got = {std::vector<double>(static_cast<size_t>(rows * count), kNone),
                std::vector<double>(static_cast<size_t>(columns), kNone),
                std::vector<int64_t>(static_cast<size_t>(rows * count), -1),
                std::vector<int64_t>(static_cast<size_t>(columns), -1)};
    for (int64_t i = 0; i < rows; i += tile_rows) {
        const int64_t height = std::min(tile_rows, rows - i);
        Memory<double> best("best", {got.best.begin() + i * count, got.best.begin() + (i + height) * count});
        Memory<int64_t> best_column(
            "best_column", {got.best_column.begin() + i * count, got.best_column.begin() + (i + height) * count});
        const Memory<double> row_inverses("row_inverse", {row_inverse.begin() + i, row_inverse.begin() + i + height});
        for (int64_t j = 0; j < columns; j += tile_columns) {
            const int64_t width = std::min(tile_columns, columns - j);
            std::vector<int64_t> own_skip;
            for (int64_t k = i; k < i + height; ++k) own_skip.push_back(skip[static_cast<size_t>(k)] - j);
            const Memory<int64_t> skip_columns("skip", own_skip);
            // A tile of the whole matrix, which ends with the tile's last row.
            Memory<double> tile("c", {c.begin() + i * columns + j, c.begin() + (i + height - 1) * columns + j + width});
            const Memory<double> column_inverses("column_inverse",
                                                 {column_inverse.begin() + j, column_inverse.begin() + j + width});
            Memory<double> column_best("column_best",
                                       {got.column_best.begin() + j, got.column_best.begin() + j + width});
            Memory<int64_t> best_row("best_row", {got.best_row.begin() + j, got.best_row.begin() + j + width});
            univfast::cuda::best_pairs(
                {{{tile.data(), height, width, columns}, row_inverses.data(), skips ? skip_columns.data() : nullptr, 1},
                 column_inverses.data(),
                 i,
                 j,
                 count,
                 best.data(),
                 best_column.data(),
                 for_columns ? column_best.data() : nullptr,
                 for_columns ? best_row.data() : nullptr,
                 nullptr,
                 0},
                kStream);
            const std::vector<double> highest = column_best.computed();
            const std::vector<int64_t> row_of_it = best_row.computed();
            std::copy(highest.begin(), highest.end(), got.column_best.begin() + j);
            std::copy(row_of_it.begin(), row_of_it.end(), got.best_row.begin() + j);
        }
        const std::vector<double> highest = best.computed();
        const std::vector<int64_t> columns_of_it = best_column.computed();
        std::copy(highest.begin(), highest.end(), got.best.begin() + i * count);
        std::copy(columns_of_it.begin(), columns_of_it.end(), got.best_column.begin() + i * count);
    }
    const std::string what = "best " + std::to_string(count) + " of " + std::to_string(rows) + " x " +
                             std::to_string(columns) + (skips ? " with skips: " : ": ");
    expect_near(got.best, expected.best, 0, what + "r");
    expect_near(as_numbers(got.best_column), as_numbers(expected.best_column), 0, what + "columns");
    if (!for_columns) return;
    expect_near(got.column_best, expected.column_best, 0, what + "r of columns");
    expect_near(as_numbers(got.best_row), as_numbers(expected.best_row), 0, what + "rows of columns");
}

void check_all_best() {
    check_best(19, 70, 1, 19, 70, false, true);
    check_best(19, 70, 5, 8, 33, true, true);
    check_best(9, 3, 5, 9, 3, true, true);  // fewer columns than are asked for
    check_best(2, 300, 40, 2, 300, false, false);
    check_best(1, 1, 1, 1, 1, false, true);
    expect(throws<std::invalid_argument>([] { univfast::cuda::best_pairs({}, kStream); }), "best: a count of 0");
}

// ---- the best of rotations ------------------------------------------------------------------------------

void check_rotated(int64_t rows, int64_t columns, int64_t draws, bool skips) {
    const std::string what =
        "rotated best of " + std::to_string(rows) + " x " + std::to_string(columns) + (skips ? " with skips" : "");
    Random random(static_cast<uint64_t>(columns));
    const Rotations rotations(columns, draws, static_cast<uint64_t>(columns));
    const int64_t stride = columns + 3, best_stride = rows + 2;
    const std::vector<double> c = random.uniform((rows - 1) * stride + columns);
    std::vector<double> row_inverse, column_inverse;
    // So that most stay below 1, and some rows are cut off there.
    for (int64_t i = 0; i < rows; ++i) row_inverse.push_back(i % 4 == 3 ? 100 : 0.4);
    row_inverse[static_cast<size_t>(rows / 2)] = kNaN;
    for (int64_t i = 0; i < draws * columns; ++i)
        column_inverse.push_back(i % 5 == 2 ? kNaN : 1 + random.uniform() / 2);
    // The last draw has no column at all.
    for (int64_t i = 0; i < columns; ++i) column_inverse[at(draws - 1, columns, i)] = kNaN;
    std::vector<double> expected((static_cast<size_t>((draws - 1) * best_stride + rows)), kNone);
    expected[0] = 0.99;  // of another tile
    const std::vector<double> before = expected;
    std::vector<int64_t> skip, single;
    const int64_t single_stride = rows + 1;
    std::vector<double> single_r(static_cast<size_t>((draws - 1) * single_stride + rows), 7.0);
    const std::vector<double> single_before = single_r;
    for (int64_t row = 0; row < rows; ++row) {
        single.push_back(row % 3 == 1 ? -1 : (row * 5) % columns);
        const std::vector<double> first =
            rotations.first({c.begin() + row * stride, c.begin() + row * stride + columns});
        // What would be the best of the first draw, but for the scales.
        const std::vector<double> turned = rotations.last(0, first);
        skip.push_back(std::max_element(turned.begin(), turned.end()) - turned.begin());
        for (int64_t draw = 0; draw < draws; ++draw) {
            const std::vector<double> z = rotations.last(draw, first);
            double& best = expected[at(draw, best_stride, row)];
            for (int64_t i = 0; i < columns; ++i) {
                const double r = z[static_cast<size_t>(i)] * column_inverse[at(draw, columns, i)] *
                                 row_inverse[static_cast<size_t>(row)];
                if (i == single.back() && !std::isnan(row_inverse[static_cast<size_t>(row)])) {
                    single_r[at(draw, single_stride, row)] = std::clamp(r, -1.0, 1.0);
                }
                if (std::isnan(r) || (skips && i == skip.back())) continue;
                best = std::max(best, std::clamp(r, -1.0, 1.0));
            }
        }
    }
    Memory<double> state("c", c), best("best", before);
    const Memory<double> row_inverses("row_inverse", row_inverse), inverses("column_inverse", column_inverse);
    const Memory<int64_t> skip_columns("skip", skip), singles("single", single);
    Memory<double> single_found("single_r", single_before);
    const CoMoments tile = {state.data(), rows, columns, stride};
    const int64_t size = univfast::cuda::rotated_best_workspace(tile, 0);
    Workspace workspace(size);
    univfast::cuda::rotated_best({{tile, row_inverses.data(), skips ? skip_columns.data() : nullptr, 1},
                                  rotations.signs(),
                                  inverses.data(),
                                  best.data(),
                                  best_stride,
                                  singles.data(),
                                  single_found.data(),
                                  single_stride,
                                  workspace.data(),
                                  size},
                                 kStream);
    expect_near(best.computed(), expected, 1e-12, what);
    expect_near(single_found.computed(), single_r, 1e-12, what + ", single ones");
}

}  // namespace

void check_pairs() {
    check_products();
    check_all_best();
    check_rotated(21, 48, 3, true);
    check_rotated(18, 64, 2, false);
    check_rotated(5, 33, 2, true);
    check_rotated(3, 7, 2, false);
    check_rotated(2, 1, 2, false);
    check_rotated(4, 257, 2, true);
    check_rotated(2, 1344, 2, false);
    check_rotated(2, 3072, 2, true);
}

}  // namespace checks
