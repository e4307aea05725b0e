// The structured rotation (rotation.h) of rows in shared memory, by some of a block's threads a row.
//
// A transform of 2^n neurons is done in passes of up to 5 stages: a thread takes 2^r values into registers, transforms
// them, and puts them back. The first pass of a round reads its input where it lies (activations, or the round before,
// dealt), so that a round of 1,024 takes two passes and, with the reading of the result, 4 accesses to shared memory a
// neuron.
#pragma once

#include <cstdint>
#include <device_primitives.cuh>

#include "../univfast.h"
#include "plan.h"

namespace univfast::cuda {

// The neuron that a group of a pass begins with; the others follow at steps of 2^shift.
__device__ inline int group_begin(const Pass& pass, int stages, int group) {
    const int inside = (1 << pass.shift) - 1;
    return pass.first + ((group >> pass.shift) << (pass.shift + stages)) + (group & inside);
}

// The threads that work on one row, and the barrier of all that rotate beside each other.
struct Lanes {
    int lane;
    int lanes;
    int barrier;  // id; 0: all threads of the block
    int threads;  // of the barrier

    __device__ void sync() const {
        if (barrier == 0) {
            __syncthreads();
        } else {
            cuda::barrier(barrier, threads);
        }
    }
};

// ---- signs ----------------------------------------------------------------------------------------------
// of(pass) gives the signs of a pass. Of those, start(i, shift, n) and then next(scale) give scale or -scale for
// neurons i, i + 2^shift, ...; n counts the values of the pass that the lane had before.

// From the signs themselves.
struct SignArray {
    Signs signs;
    int64_t draw;
    int neurons;

    struct OfPass {
        const float* signs;
        int i = 0, step = 0;

        __device__ void start(int first, int shift, int) { i = first, step = 1 << shift; }
        template <class T>
        __device__ T next(T scale) {
            const T signed_scale = static_cast<T>(signs[i]) * scale;
            i += step;
            return signed_scale;
        }
    };

    __device__ OfPass of(const Pass& pass) const {
        const int64_t round = pass.round < kCommonRounds ? pass.round : kCommonRounds + draw;
        return {signs.data + (round * kStages + pass.signs) * neurons};
    }
};

// From bits: a lane's own, of all its values of a pass, in the order in which it takes them. A word serves 32 values,
// and stays in a register.
struct SignBits {
    uint32_t* words;  // [words of all passes, lanes], in shared memory
    Lanes lanes;

    struct OfPass {
        const uint32_t* words;
        int lanes;
        uint32_t bits = 0;

        __device__ void start(int, int, int n) { bits = words[(n >> 5) * lanes] >> (n & 31); }
        __device__ float next(float scale) {
            const float signed_scale = __uint_as_float(__float_as_uint(scale) ^ (bits << 31));
            bits >>= 1;
            return signed_scale;
        }
    };

    __device__ OfPass of(const Pass& pass) const {
        return {words + pass.sign_words * lanes.lanes + lanes.lane, lanes.lanes};
    }

    // Takes the bits of all passes from the signs. The lanes of one row do; a barrier must follow.
    __device__ void fill(const Plan& plan, const SignArray& signs) const {
        for (int i = 0; i < plan.count; ++i) {
            const Pass& pass = plan.passes[i];
            if (pass.signs < 0) continue;
            uint32_t* own = words + pass.sign_words * lanes.lanes + lanes.lane;
            uint32_t word = 0;
            int n = 0;
            for (int group = lanes.lane; group < pass.count >> pass.stages; group += lanes.lanes) {
                auto of_pass = signs.of(pass);
                of_pass.start(group_begin(pass, pass.stages, group), pass.shift, n);
                for (int k = 0; k < 1 << pass.stages; ++k, ++n) {
                    word |= uint32_t{of_pass.next(1.0f) < 0} << (n & 31);
                    if ((n & 31) < 31) continue;
                    own[(n >> 5) * lanes.lanes] = word;
                    word = 0;
                }
            }
            if (n & 31) own[(n >> 5) * lanes.lanes] = word;
        }
    }
};

// ---- what a pass reads ----------------------------------------------------------------------------------
// start(i, shift, n) and then next() give the values of neurons i, i + 2^shift, ..., with sign and scale.

// A row as `load` gives it. Sums the squares of what it gave, before signs and scale.
template <class T, class Load, class PassSigns>
struct RowInput {
    const Load& load;
    PassSigns signs;
    T scale;
    T squares = 0;
    int i = 0, step = 0;

    __device__ void start(int first, int shift, int n) {
        i = first, step = 1 << shift;
        signs.start(first, shift, n);
    }
    __device__ T next() {
        const T value = load(i);
        squares += value * value;
        i += step;
        return value * signs.next(scale);
    }
};

// The round before, dealt.
template <class T, class PassSigns>
struct DealtInput {
    const T* mid;
    PassSigns signs;
    T scale;
    const Plan& plan;
    uint32_t from = 0, from_step = 0;

    __device__ void start(int first, int shift, int n) {
        const uint32_t neurons = plan.neurons, inside = (1u << plan.group_bits) - 1;
        from = ((first >> plan.group_bits) * plan.stride % neurons + (first & inside) + plan.turn) % neurons;
        // No step is shorter than a group (plan.cpp).
        from_step = (1u << shift >> plan.group_bits) * plan.stride % neurons;
        signs.start(first, shift, n);
    }
    __device__ T next() {
        const T value = mid[place(static_cast<int>(from))] * signs.next(scale);
        from += from_step;
        if (from >= static_cast<uint32_t>(plan.neurons)) from -= plan.neurons;
        return value;
    }
};

// The round's own values.
template <class T>
struct SameInput {
    const T* z;
    int i = 0, step = 0;

    __device__ void start(int first, int shift, int) { i = first, step = 1 << shift; }
    __device__ T next() {
        const T value = z[place(i)];
        i += step;
        return value;
    }
};

// The same with signs.
template <class T, class PassSigns>
struct SignedInput {
    SameInput<T> same;
    PassSigns signs;
    T scale;

    __device__ void start(int first, int shift, int n) {
        same.start(first, shift, n);
        signs.start(first, shift, n);
    }
    __device__ T next() { return same.next() * signs.next(scale); }
};

// ---- passes ---------------------------------------------------------------------------------------------

template <int kStages, class T, class From>
__device__ void run_stages(const Pass& pass, From& from, T* z, const Lanes& lanes) {
    constexpr int kRadix = 1 << kStages;
    int n = 0;
#pragma unroll 1
    for (int group = lanes.lane; group < pass.count >> kStages; group += lanes.lanes, n += kRadix) {
        const int begin = group_begin(pass, kStages, group);
        T v[kRadix];
        from.start(begin, pass.shift, n);
#pragma unroll
        for (int k = 0; k < kRadix; ++k) v[k] = from.next();
#pragma unroll
        for (int half = 1; half < kRadix; half *= 2) {
#pragma unroll
            for (int k = 0; k < kRadix; ++k) {
                if (k & half) continue;
                const T low = v[k], high = v[k + half];
                v[k] = low + high;
                v[k + half] = low - high;
            }
        }
#pragma unroll
        for (int k = 0; k < kRadix; ++k) z[place(begin + (k << pass.shift))] = v[k];
    }
}

template <class T, class From>
__device__ void run_pass(const Pass& pass, From& from, T* z, const Lanes& lanes) {
    switch (pass.stages) {
        case 0:
            return run_stages<0>(pass, from, z, lanes);
        case 1:
            return run_stages<1>(pass, from, z, lanes);
        case 2:
            return run_stages<2>(pass, from, z, lanes);
        case 3:
            return run_stages<3>(pass, from, z, lanes);
        case 4:
            return run_stages<4>(pass, from, z, lanes);
        default:
            if constexpr (kMostStages<T> == 5) run_stages<5>(pass, from, z, lanes);
    }
}

// ---- rotations ------------------------------------------------------------------------------------------

// Runs passes begin .. end of a plan. The rounds go to and fro between two rows [padded(neurons)]: the last one ends
// in z, the one before it in mid. Returns the sum of squares of the row's values that this lane read. All threads of
// the lanes' barrier call it; behind it stands a barrier.
template <class T, class Load, class SignSource>
__device__ T run_passes(const Plan& plan, int begin, int end, const Load& load, const SignSource& signs, T* mid, T* z,
                        const Lanes& lanes) {
    T squares = 0;
#pragma unroll 1
    for (int i = begin; i < end; ++i) {
        const Pass& pass = plan.passes[i];
        const bool to_z = pass.round == kCommonRounds || (plan.middle_round && pass.round == 0);
        T* const to = to_z ? z : mid;
        const T scale = static_cast<T>(pass.scale);
        using PassSigns = typename SignSource::OfPass;
        if (pass.input == Input::row) {
            RowInput<T, Load, PassSigns> from = {load, signs.of(pass), scale};
            run_pass(pass, from, to, lanes);
            squares += from.squares;
        } else if (pass.input == Input::dealt) {
            DealtInput<T, PassSigns> from = {to_z ? mid : z, signs.of(pass), scale, plan};
            run_pass(pass, from, to, lanes);
        } else if (pass.signs >= 0) {
            SignedInput<T, PassSigns> from = {{to}, signs.of(pass), scale};
            run_pass(pass, from, to, lanes);
        } else {
            SameInput<T> from = {to};
            run_pass(pass, from, to, lanes);
        }
        if (pass.barrier) lanes.sync();
    }
    return squares;
}

// Of a row, what all draws share: in mid. Returns as run_passes does.
template <class T, class Load, class SignSource>
__device__ T rotate_first(const Plan& plan, const Load& load, const SignSource& signs, T* mid, T* z,
                          const Lanes& lanes) {
    return run_passes(plan, 0, plan.common, load, signs, mid, z, lanes);
}

// z = a draw's rotation of what rotate_first left in mid.
template <class T, class SignSource>
__device__ void rotate_last(const Plan& plan, const SignSource& signs, T* mid, T* z, const Lanes& lanes) {
    const auto none = [](int) { return T(0); };
    run_passes(plan, plan.common, plan.count, none, signs, mid, z, lanes);
}

}  // namespace univfast::cuda
