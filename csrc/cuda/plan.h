// How a structured rotation (rotation.h) is done on a device: passes over a row, which a host function plans.
#pragma once

#include <cstdint>

#include "../host_device.h"
#include "../rotation.h"

namespace univfast::cuda {

// Stages of a pass: a thread holds 32 values of float32 in registers, or 16 of float64.
template <class T>
constexpr int kMostStages = sizeof(T) == sizeof(float) ? 5 : 4;

// Where neuron i of a row stands: rows are padded, so that threads which are a power of two apart do not meet in one
// bank of shared memory.
UNIVFAST_HOST_DEVICE inline int place(int i) { return i + (i >> 5); }
UNIVFAST_HOST_DEVICE inline int padded(int neurons) { return place(neurons) + 1; }

enum class Input : int {
    row,    // what is rotated
    dealt,  // the round before, dealt
    same,   // the round's own values
};

// Some stages of the transforms of neurons first .. first + count, in blocks of 2^(shift + stages).
struct Pass {
    int stages;
    int shift;  // log2 of the shortest stride
    int first, count;
    Input input;
    int round;       // 0: first, 1: middle, 2: last
    int signs;       // which of the round's signs come first; -1: none
    int sign_words;  // first of the words of their bits
    double scale;    // with the signs
    bool barrier;    // behind this pass: what it wrote is read by others
};

constexpr int kMostPasses = 28;  // three rounds of two stretches, and what mixes across blocks

struct Plan {
    int neurons;
    int group_bits;
    uint32_t stride;
    int turn;
    bool middle_round;
    int common;      // passes of the rounds that all draws share
    int count;       // passes
    int sign_words;  // that the bits of a lane's signs take
    Pass passes[kMostPasses];
};

// For so many lanes a row, and values of T. Throws std::invalid_argument where deals cannot be numbered in 32 bits.
template <class T>
Plan device_plan(int64_t neurons, int lanes);

}  // namespace univfast::cuda
