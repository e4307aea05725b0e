// Whole rows by all draws of a structured rotation.
#pragma once

#include "../workspace.h"
#include "kernels.h"

namespace univfast::cpu {

// Values of a row between the two rounds: what rotate_first writes.
inline int64_t mid_size(int64_t neurons) { return neurons + kTurn; }

inline const float* common_signs(const Signs& signs) { return signs.data; }

inline const float* draw_signs(const Signs& signs, int64_t draw, int64_t neurons) {
    return signs.data + (kCommonRounds + draw) * kStages * neurons;
}

// Room for one row on its way, of T.
template <class T>
struct RowScratch {
    T* mid;      // [mid_size(neurons)]
    T* rotated;  // [neurons]

    static int64_t size(int64_t neurons) { return piece<T>(mid_size(neurons)) + piece<T>(neurons); }  // bytes
    static RowScratch take(Workspace& workspace, int64_t neurons) {
        T* mid = workspace.take<T>(mid_size(neurons));
        return {mid, workspace.take<T>(neurons)};
    }
};

// rotated [neurons] = the second round of a whole row.
template <class T>
void finish_row(const Kernels<T>& kernels, const RotationPlan& plan, const T* mid, const float* signs, T* rotated) {
    for (int64_t first = 0; first < plan.neurons; first += plan.part) {
        kernels.rotate_second(plan, mid, signs, first, rotated + first);
    }
}

// use(draw), with scratch.rotated = R_draw x, for each draw.
template <class T, class Use>
void rotate_row(const Kernels<T>& kernels, const RotationPlan& plan, const Signs& signs, const T* x,
                const RowScratch<T>& scratch, const Use& use) {
    if (signs.draws == 0) return;
    kernels.rotate_first(plan, x, nullptr, common_signs(signs), scratch.mid);
    for (int64_t draw = 0; draw < signs.draws; ++draw) {
        finish_row(kernels, plan, scratch.mid, draw_signs(signs, draw, plan.neurons), scratch.rotated);
        use(draw);
    }
}

}  // namespace univfast::cpu
