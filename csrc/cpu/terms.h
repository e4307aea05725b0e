// A row of a product on its way to co-moments.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "kernels.h"

namespace univfast::cpu {

inline void check_terms(const Terms& terms) {
    if (terms.deltas < 1 || terms.deltas > 2) throw std::invalid_argument("deltas: must be 1 or 2");
}

// Adds columns first .. first + columns of a row; product has these alone.
template <class T>
void add_row(const Level& level, const Terms& terms, const CoMoments& c, int64_t row, int64_t first, int64_t columns,
             const T* product) {
    double row_delta[2];
    const double* column_delta[2];
    for (int64_t d = 0; d < terms.deltas; ++d) {
        row_delta[d] = terms.row_delta[d * c.rows + row];
        column_delta[d] = terms.column_delta + d * c.columns + first;
    }
    kernels<T>(level).add_product(product, terms.row_scale[row], terms.column_scale + first, terms.deltas, row_delta,
                                  column_delta, columns, c.data + row * c.row_stride + first);
}

}  // namespace univfast::cpu
