// What every processor of the family has: SSE2 on x86-64, NEON on 64-bit ARM.
#include <utility>

#include "kernels.h"

namespace univfast::cpu {
namespace {
constexpr int kVectorBytes = 16;
constexpr int kRadix = 8;      // vectors a pass: as many as leave registers for temporaries
constexpr int kCellLeads = 2;  // of shifts: 10 sums, 2 values and 1 fit 16 registers
constexpr bool kHardwareHalf = false;
#include "kernels.inc"
}  // namespace

constinit const Level level_baseline = {"baseline", table<float>(), table<double>(), row_table()};

}  // namespace univfast::cpu
