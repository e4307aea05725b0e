// The structured rotation: which signs, which blocks. Compiled by host and device alike.
//
// R is a product of kRounds rounds. With N = m * B, where B is the largest power of two that divides N
// (1 if that is below kMinBlock), and p the largest power of two <= m, a round is
//
//   1. a cyclic shift by `shift` neurons (not in the first round) and random signs;
//   2. a Walsh-Hadamard transform of the first p * B neurons, and of each block of B behind them;
//   3. if m > 1: random signs on the last p * B neurons, and a transform across their p blocks.
//
// Each step is orthogonal, so R is, for every N, without padding. The two windows of p blocks overlap, which
// carries every neuron to every other; where they overlap little, the shift makes the next round straddle
// their border. The second signs keep two transforms of nearly the same neurons from undoing each other.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace univfast {

// Two rounds leave the diagonal of R measurably larger than that of a uniform rotation; three do not.
constexpr int kRounds = 3;
constexpr int kStages = 2 * kRounds;  // rows of signs a draw: two a round
// In neurons: blocks of fewer are narrower than a few vector registers, and the width is treated as odd.
constexpr int64_t kMinBlock = 64;

struct RotationPlan {
    int64_t neurons;    // N
    int64_t block;      // B
    int64_t window;     // p * B
    int64_t remainder;  // N - p * B: where the second window starts; 0 if N is a power of two
    int64_t shift;      // neurons
};

UNIVFAST_HOST_DEVICE inline RotationPlan rotation_plan(int64_t neurons) {
    int64_t block = neurons & -neurons;
    if (block < kMinBlock && block != neurons) block = 1;
    const int64_t blocks = neurons / block;
    int64_t window = 1;
    while (2 * window <= blocks) window *= 2;
    // Windows that share less than a third of their length need the shift.
    const int64_t shift = 3 * blocks > 5 * window ? window / 2 : 0;
    return {neurons, block, window * block, (blocks - window) * block, shift * block};
}

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
UNIVFAST_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// 64 signs: bit i is set where the sign of neuron 64 * word + i is -1.
UNIVFAST_HOST_DEVICE inline uint64_t sign_word(uint64_t seed, uint64_t draw, uint64_t stage, uint64_t word) {
    return mix64(mix64(mix64(mix64(seed) ^ draw) ^ stage) ^ word);
}

}  // namespace univfast
