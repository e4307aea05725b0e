// AVX-512 BF16, beside what level_avx512.cpp needs.
#include <immintrin.h>

#include "../packed.h"
#include "kernels.h"

namespace univfast::cpu {
namespace {

constexpr int kRows = 8;
constexpr int kVectors = 3;
constexpr int kLanes = 16;
static_assert(kPanel == kVectors * kLanes && kPanel % kRows == 0);

inline uint32_t scaled(uint16_t bits, float scale) {
    const float value = __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16) * scale;
    return __builtin_bit_cast(uint32_t, value);
}

void pack_pair(const uint16_t* first, const uint16_t* second, const float* scale, int64_t neurons, uint32_t* packed) {
    if (!second) {
        for (int64_t i = 0; i < neurons; ++i) packed[i] = scaled(first[i], scale[i]) >> 16;
        return;
    }
    for (int64_t i = 0; i < neurons; ++i) {
        packed[i] = scaled(first[i], scale[i]) >> 16 | (scaled(second[i], scale[i]) & 0xffff0000U);
    }
}

// kRows rows of x with all columns of y.
inline void multiply_rows(const uint32_t* x, const uint32_t* y, int64_t pairs, bool first, float* sums,
                          int64_t stride) {
    __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
    for (auto& row : sum) {
#pragma GCC unroll 3
        for (__m512& one : row) one = _mm512_setzero_ps();
    }
    for (int64_t pair = 0; pair < pairs; ++pair) {
        __m512bh right[kVectors];
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) {
            right[j] = reinterpret_cast<__m512bh>(_mm512_load_si512(y + pair * kPanel + j * kLanes));
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const auto left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(x[pair * kPanel + i])));
#pragma GCC unroll 3
            for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) {
            float* to = sums + i * stride + j * kLanes;
            _mm512_store_ps(to, first ? sum[i][j] : _mm512_add_ps(_mm512_load_ps(to), sum[i][j]));
        }
    }
}

void multiply_panels(const uint32_t* x, const uint32_t* y, int64_t pairs, bool first, float* sums, int64_t stride) {
    for (int64_t row = 0; row < kPanel; row += kRows) {
        multiply_rows(x + row, y, pairs, first, sums + row * stride, stride);
    }
}

}  // namespace

constinit const ProductKernels products_avx512bf16 = {pack_pair, multiply_panels};

}  // namespace univfast::cpu
