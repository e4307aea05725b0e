// AVX-512 F, BW, DQ and VL.
#include <utility>

#include "kernels.h"

namespace univfast::cpu {
namespace {
constexpr int kVectorBytes = 64;
constexpr int kRadix = 16;  // vectors a pass: half of the 32 registers
#include "kernels.inc"
}  // namespace

constinit const Level level_avx512 = {"avx512", table<float>(), table<double>()};

}  // namespace univfast::cpu
