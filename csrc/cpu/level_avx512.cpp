// AVX-512 F, BW, DQ and VL.
#include <utility>

#include "kernels.h"

namespace univfast::cpu {
namespace {
constexpr int kVectorBytes = 64;
constexpr int kRadix = 8;  // vectors a pass: 16 would fit the 32 registers, and take twice as long on Zen 4
#include "kernels.inc"
}  // namespace

constinit const Level level_avx512 = {"avx512", table<float>(), table<double>(), row_table()};

}  // namespace univfast::cpu
