// Where sums are taken from: which tokens a pivot comes from, and whether it served. Compiled by host and device alike.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"
#include "rotation.h"

namespace univfast {

// Tokens that a pivot is taken from. More come nearer to the mean, fewer are read twice.
constexpr int kPivotTokens = 16;

// The token that sample i of so many takes from `count`: one from each equal share, at an irregular place, so that what
// recurs in the data (the starts of sequences, say) does not fall on many samples.
UNIVFAST_HOST_DEVICE inline int64_t sampled_token(int64_t i, int64_t samples, int64_t count) {
    const int64_t begin = i * count / samples, end = (i + 1) * count / samples;
    return begin + static_cast<int64_t>(mix64(static_cast<uint64_t>(i)) % static_cast<uint64_t>(end - begin));
}

// Tokens that float32 does not hold well are summed again in float64: where squares are so small that they lose bits to
// underflow, and where the squared distance of pivot and mean is more than this share of the mean square, which
// multiplies the rounding of a variance by 1 / (1 - share).
constexpr double kSmallestDeviation = 1e-18;
constexpr double kSmallestSquare = kSmallestDeviation * kSmallestDeviation;
constexpr double kLargestShift = 0.75;

// Whether float32 held the sums x and xx about a pivot well: in range, and with a pivot near enough to the mean.
UNIVFAST_HOST_DEVICE inline bool held_well(double x, double xx, double tokens) {
    if (x == 0 && xx == 0) return true;
    return std::isfinite(xx) && xx >= kSmallestSquare * tokens && x * x <= kLargestShift * xx * tokens;
}

}  // namespace univfast
