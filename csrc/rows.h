// The rows that sums and moments of a batch are kept in. Types alone, as every instruction-set level includes it.
#pragma once

namespace univfast {

// Sums of x = a - pivot_a and y = b - pivot_b.
enum SumRow { kSumX, kSumY, kSumXX, kSumYY, kSumXY, kPairRows };

// Sums of their higher powers, and how many values of a and of b are above 0.
enum PowerRow { kSumXXY, kSumXYY, kSumXXYY, kSumXXX, kSumXXXX, kSumYYY, kSumYYYY, kActiveA, kActiveB, kPowerRows };

// Moments [5 + 2 * draws + shifts, neurons]: for each draw, behind kRotated, the second moment of the rotated b and its
// co-moment with a; behind those, the co-moments of shifted partners.
enum MomentRow { kMeanA, kMeanB, kM2A, kM2B, kCoAB, kRotated };

}  // namespace univfast
