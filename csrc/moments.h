// The accumulator algebra: lift sums of a tile to central moments, and merge those. Compiled by host and device
// alike. Merging is the pairwise update of Chan, Golub and LeVeque (1983), so partial results combine in any order.
// What is left, the merge of whole batches and r itself, is univfast/sums/moments.py, on torch tensors.
#pragma once

#include <cmath>

#include "host_device.h"

namespace univfast {

// Sums of a tile, taken from a pivot near the mean: x = value - pivot.
struct ShiftedSums {
    double x, y, xx, yy, xy;
};

// Central moments of a pair of variables over `tokens` tokens (the count is kept once for all pairs).
struct PairMoments {
    double mean_x, mean_y, m2_x, m2_y, c_xy;
};

// A central second moment or co-moment from sums about a pivot: sum(xy) - sum(x) sum(y) / n.
UNIVFAST_HOST_DEVICE inline double centred(double xy, double x, double y, double tokens) {
    return xy - x * (y / tokens);
}

// What the distance between two means adds to a (co-)moment when n_1 and n_2 tokens are merged.
UNIVFAST_HOST_DEVICE inline double between(double delta_x, double delta_y, double n_1, double n_2) {
    return delta_x * delta_y * (n_1 * (n_2 / (n_1 + n_2)));
}

UNIVFAST_HOST_DEVICE inline double merged_mean(double mean_1, double mean_2, double n_1, double n_2) {
    return mean_1 + (mean_2 - mean_1) * (n_2 / (n_1 + n_2));
}

UNIVFAST_HOST_DEVICE inline PairMoments lift(const ShiftedSums& s, double pivot_x, double pivot_y, double tokens) {
    return {pivot_x + s.x / tokens, pivot_y + s.y / tokens, centred(s.xx, s.x, s.x, tokens),
            centred(s.yy, s.y, s.y, tokens), centred(s.xy, s.x, s.y, tokens)};
}

UNIVFAST_HOST_DEVICE inline PairMoments merge(const PairMoments& p, const PairMoments& q, double n_p, double n_q) {
    const double delta_x = q.mean_x - p.mean_x;
    const double delta_y = q.mean_y - p.mean_y;
    return {merged_mean(p.mean_x, q.mean_x, n_p, n_q), merged_mean(p.mean_y, q.mean_y, n_p, n_q),
            p.m2_x + q.m2_x + between(delta_x, delta_x, n_p, n_q),
            p.m2_y + q.m2_y + between(delta_y, delta_y, n_p, n_q),
            p.c_xy + q.c_xy + between(delta_x, delta_y, n_p, n_q)};
}

}  // namespace univfast
