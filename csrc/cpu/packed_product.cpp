// Products of bfloat16, added to co-moments as they are made.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "../packed.h"
#include "../univfast.h"
#include "../workspace.h"
#include "kernels.h"
#include "matrix.h"
#include "parallel.h"
#include "terms.h"

namespace univfast {
namespace cpu {
namespace {

// Of the co-moments that are made at a time: their sums, 590 KB, stay in the second cache while all tokens are gone
// through, and so many rows make reading a panel of columns cheap beside multiplying with it.
constexpr int64_t kStripRows = 2 * kPanel;
constexpr int64_t kStripColumns = 32 * kPanel;

const ProductKernels& product_kernels() {
    const ProductKernels* found = active_level().products;
    if (!found) throw std::invalid_argument("bfloat16: no products of it at this instruction-set level");
    return *found;
}

int64_t parts(int64_t total, int64_t part) { return (total + part - 1) / part; }

void check_threads(int threads) {
    if (threads < 1) throw std::invalid_argument("threads: must be at least 1");
}

// As many as there may be strips, wherever in a panel the first begins.
int strip_threads(const CoMoments& c, int threads) {
    const int64_t most = parts(c.rows + kPanel, kStripRows) * parts(c.columns + kPanel, kStripColumns);
    return static_cast<int>(std::clamp<int64_t>(most, 1, threads));
}

void check(const Packed& packed, int64_t count) {
    if (packed.first < 0 || packed.first + count > packed.neurons) {
        throw std::invalid_argument("packed: neurons that are not there");
    }
}

// What is made of some rows or columns of co-moments: whole panels, of which the first may begin before them.
struct Strips {
    int64_t panel;   // the first
    int64_t before;  // of its neurons, those that are not meant
    int64_t total;   // neurons from its beginning on

    Strips(const Packed& packed, int64_t count)
        : panel(packed.first / kPanel), before(packed.first % kPanel), total(before + count) {}
};

}  // namespace
}  // namespace cpu

bool multiplies_bfloat16() { return cpu::active_level().products != nullptr; }

int64_t packed_size(int64_t tokens, int64_t neurons) { return (tokens + 1) / 2 * panels(neurons) * kPanel; }

void pack(const PackParams& params) {
    using namespace cpu;
    check_threads(params.threads);
    check({params.packed, params.neurons, params.first}, params.x.columns);
    if (params.x.dtype != DType::bfloat16) throw std::invalid_argument("pack: x must be bfloat16");
    const ProductKernels& kernels = product_kernels();
    const int64_t tokens = params.x.rows, last = params.first + params.x.columns;
    const int64_t first_panel = params.first / kPanel, count = panels(last) - first_panel;
    const int threads =
        useful_threads(params.threads, parts(tokens, kPackTokens) * count, tokens * params.x.columns / 2);
    parallel_for(parts(tokens, kPackTokens) * count, threads, [&](int64_t index, int) {
        const int64_t first = index / count * kPackTokens, panel = first_panel + index % count;
        const int64_t from = std::max(params.first, panel * kPanel), end = std::min(last, (panel + 1) * kPanel);
        const int64_t column = from - params.first, at = from - panel * kPanel;
        uint32_t* to = params.packed + packed_offset(tokens, params.neurons, first, panel);
        for (int64_t pair = 0; pair < token_pairs(tokens, first); ++pair) {
            const int64_t row = first + 2 * pair;
            const auto* one = reinterpret_cast<const uint16_t*>(row_at(params.x, row, column));
            const auto* other =
                row + 1 < tokens ? reinterpret_cast<const uint16_t*>(row_at(params.x, row + 1, column)) : nullptr;
            kernels.pack_pair(one, other, params.scale + column, end - from, to + pair * kPanel + at);
            if (end == params.neurons) std::fill(to + pair * kPanel + at + end - from, to + (pair + 1) * kPanel, 0);
        }
    });
}

int64_t packed_product_workspace(const CoMoments& c, int threads) {
    cpu::check_threads(threads);
    return cpu::strip_threads(c, threads) * piece<float>(cpu::kStripRows * cpu::kStripColumns);
}

void add_packed_product(const AddPackedProductParams& params) {
    using namespace cpu;
    const CoMoments& c = params.c;
    const Packed &x = params.x, &y = params.y;
    check_threads(params.threads);
    check_terms(params.terms);
    check(x, c.rows);
    check(y, c.columns);
    const Level& level = active_level();
    const ProductKernels& kernels = product_kernels();
    const int threads = strip_threads(c, params.threads);
    Workspace workspace(params.workspace, params.workspace_size);
    std::vector<float*> strips;
    for (int thread = 0; thread < threads; ++thread) {
        strips.push_back(workspace.take<float>(kStripRows * kStripColumns));
    }
    const Strips down(x, c.rows), across(y, c.columns);
    const int64_t beside = parts(across.total, kStripColumns);
    parallel_for(parts(down.total, kStripRows) * beside, threads, [&](int64_t index, int thread) {
        float* strip = strips[thread];
        const int64_t row = index / beside * kStripRows, column = index % beside * kStripColumns;
        const int64_t rows = std::min(kStripRows, down.total - row);
        const int64_t columns = std::min(kStripColumns, across.total - column);
        for (int64_t first = 0; first < params.tokens; first += kPackTokens) {
            const int64_t pairs = token_pairs(params.tokens, first);
            for (int64_t j = 0; j < panels(columns); ++j) {
                for (int64_t i = 0; i < panels(rows); ++i) {
                    const int64_t left = down.panel + row / kPanel + i, right = across.panel + column / kPanel + j;
                    kernels.multiply_panels(x.data + packed_offset(params.tokens, x.neurons, first, left),
                                            y.data + packed_offset(params.tokens, y.neurons, first, right), pairs,
                                            first == 0, strip + (i * kStripColumns + j) * kPanel, kStripColumns);
                }
            }
        }
        const int64_t left_out = std::max<int64_t>(0, across.before - column);
        for (int64_t i = std::max<int64_t>(0, down.before - row); i < rows; ++i) {
            add_row(level, params.terms, c, row + i - down.before, column + left_out - across.before,
                    columns - left_out, strip + i * kStripColumns + left_out);
        }
    });
}

}  // namespace univfast
