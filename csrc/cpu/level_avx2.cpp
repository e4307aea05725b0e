// AVX2, FMA and F16C: x86-64 since 2013 (Intel) and 2015 (AMD).
#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace univfast::cpu {
namespace {
constexpr int kVectorBytes = 32;
constexpr int kRadix = 8;      // vectors a pass: as many as leave registers for temporaries
constexpr int kCellLeads = 2;  // of shifts: 10 sums, 2 values and 1 fit the 16 registers
constexpr bool kHardwareHalf = true;
inline __m256 load_half(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
#include "kernels.inc"
}  // namespace

constinit const Level level_avx2 = {"avx2", table<float>(), table<double>(), row_table()};

}  // namespace univfast::cpu
