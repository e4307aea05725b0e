// AVX2 and FMA: x86-64 since 2013 (Intel) and 2015 (AMD).
#include <utility>

#include "kernels.h"

namespace univfast::cpu {
namespace {
constexpr int kVectorBytes = 32;
constexpr int kRadix = 8;  // vectors a pass: as many as leave registers for temporaries
#include "kernels.inc"
}  // namespace

constinit const Level level_avx2 = {"avx2", table<float>(), table<double>(), row_table()};

}  // namespace univfast::cpu
