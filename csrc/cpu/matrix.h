// Rows of a matrix of any dtype, as float32 or float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels.h"

namespace univfast::cpu {

inline int64_t element_size(DType dtype) {
    switch (dtype) {
        case DType::float64:
            return 8;
        case DType::float32:
            return 4;
        default:
            return 2;
    }
}

inline const std::byte* row_at(const Matrix& matrix, int64_t row, int64_t column) {
    return static_cast<const std::byte*>(matrix.data) + (row * matrix.row_stride + column) * element_size(matrix.dtype);
}

template <class T>
constexpr DType kDType = std::is_same_v<T, double> ? DType::float64 : DType::float32;

// Points at `width` values of a row from column `first` on, as T, converted if they are not.
template <class T>
const T* fetch_row(const Level& level, const Matrix& matrix, int64_t row, int64_t first, int64_t width, T* converted) {
    const std::byte* values = row_at(matrix, row, first);
    if (matrix.dtype == kDType<T>) return reinterpret_cast<const T*>(values);
    kernels<T>(level).convert(values, matrix.dtype, converted, width);
    return converted;
}

// Asks for `width` values of a row from column `first` on, which are to be read soon: where pieces of rows are read
// that are not next to each other in memory, hardware does not ask in time. Always inlined, as GCC takes a call of what
// does nothing else for none at all.
inline __attribute__((always_inline)) void prefetch_row(const Matrix& matrix, int64_t row, int64_t first,
                                                        int64_t width) {
    const std::byte* values = row_at(matrix, row, first);
    for (int64_t at = 0; at < width * element_size(matrix.dtype); at += 64) __builtin_prefetch(values + at, 0, 2);
}

}  // namespace univfast::cpu
