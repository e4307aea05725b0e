// AVX-512 F, BW, DQ and VL.
#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace univfast::cpu {
namespace {
constexpr int kVectorBytes = 64;
constexpr int kRadix = 8;      // vectors a pass: 16 would fit the 32 registers, and take twice as long on Zen 4
constexpr int kCellLeads = 4;  // of shifts: 20 sums, 4 values and 1 fit the 32 registers
constexpr bool kHardwareHalf = true;
// Masked, as GCC 12 warns of its own definition of the plain one.
inline __m512 load_half(const void* p) {
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
#include "kernels.inc"
}  // namespace

constinit const Level level_avx512 = {"avx512", table<float>(), table<double>(), row_table()};

}  // namespace univfast::cpu
