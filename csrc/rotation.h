// The structured rotation: which signs, which blocks, which order. Compiled by host and device alike.
//
// R is two rounds with a fixed permutation P between them. The first round is common to all draws of a layer, the
// second is a draw's own:
//
//   R_d = W S_d P W S_0
//
// S are random signs. W is an orthonormal Walsh-Hadamard transform: with N = m * B, where B is the largest power of
// two that divides N (1 if that is below kMinBlock), it transforms each block of B neurons. P deals the neurons of
// every block to all blocks, in groups, so that the second round mixes all with all. Where the blocks are too many
// for their size, W mixes across them too: with p the largest power of two <= m, it transforms across the first p
// blocks, puts new signs on the last p blocks, and transforms across those. (The new signs keep two transforms of
// nearly the same neurons from undoing each other.) Layers of fewer than kMinBlock neurons have a middle round, W S P,
// common to all draws, as two rounds of so few neurons mix too little. (Of fewer than 16, univfast/nulls/rotations.py
// takes uniform rotations.)
//
// Each step is orthogonal, so R is, for every N, without padding. Every entry of R has mean 0 and variance 1/N (within
// a few percent), and is a sum of many independent signs. Given S_0, which spreads every vector evenly, the draws are
// independent and alike; tests/nulls/test_rotations.py compares the baselines of draws that share it with those of
// uniform rotations.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace univfast {

constexpr int kStages = 2;        // rows of signs a round; the second is used where W mixes across blocks
constexpr int kCommonRounds = 2;  // the first and the middle one
// In neurons: blocks of fewer are narrower than a few vector registers, and the width is treated as odd.
constexpr int64_t kMinBlock = 64;
// Neurons that P moves together, in layers of at least kMinGrouped: the widest vector register holds so many.
constexpr int64_t kGroup = 16;
constexpr int64_t kMinGrouped = 512;
// W mixes across m blocks where B / m is below this: at least 8 groups of each block go to each block otherwise.
constexpr int64_t kMinShare = 8 * kGroup;
// P turns the neurons by so many before it deals them: without, a Walsh-Hadamard transform is its own inverse, and
// |R_ii| would be alike for all neurons of a group.
constexpr int64_t kTurn = 5;

struct RotationPlan {
    int64_t neurons;    // N
    int64_t block;      // B
    int64_t window;     // p * B where W mixes across blocks, B otherwise
    int64_t remainder;  // N - p * B, where the second window starts; 0 if W does not mix across blocks
    int64_t part;       // neurons that the second round makes at a time, independently of others: B or N
    int64_t group;      // neurons
    int64_t stride;     // neurons: P takes neuron j of group g from g * stride + j + turn, modulo N
    int64_t turn;       // neurons
    bool middle_round;
};

// P is a permutation because the stride, in groups, has no divisor in common with their number; near sqrt(1/2) of
// it, the neurons of a block fall evenly on all blocks.
UNIVFAST_HOST_DEVICE inline int64_t deal_stride(int64_t groups) {
    const auto divisor = [](int64_t a, int64_t b) {
        while (b != 0) {
            const int64_t rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    };
    int64_t stride = groups * 181 / 256;
    while (divisor(stride, groups) != 1) ++stride;
    return stride;
}

UNIVFAST_HOST_DEVICE inline RotationPlan rotation_plan(int64_t neurons) {
    int64_t block = neurons & -neurons;
    if (block < kMinBlock && block != neurons) block = 1;
    const int64_t blocks = neurons / block;
    int64_t window = 1;
    while (2 * window <= blocks) window *= 2;
    const bool across = blocks > 1 && block < kMinShare * blocks;
    const int64_t group = block >= kMinBlock && neurons >= kMinGrouped ? kGroup : 1;
    return {neurons,
            block,
            across ? window * block : block,
            across ? neurons - window * block : 0,
            across ? neurons : block,
            group,
            deal_stride(neurons / group) * group % neurons,
            kTurn % neurons,
            neurons < kMinBlock};
}

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
UNIVFAST_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// 64 signs: bit i is set where the sign of neuron 64 * word + i is -1. `round` is kCommonRounds + d for draw d.
UNIVFAST_HOST_DEVICE inline uint64_t sign_word(uint64_t seed, uint64_t round, uint64_t stage, uint64_t word) {
    return mix64(mix64(mix64(mix64(seed) ^ round) ^ stage) ^ word);
}

}  // namespace univfast
