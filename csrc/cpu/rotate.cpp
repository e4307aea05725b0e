#include <algorithm>
#include <stdexcept>
#include <vector>

#include "../workspace.h"
#include "kernels.h"
#include "parallel.h"
#include "rotations.h"

namespace univfast {
namespace cpu {
namespace {

template <class T>
void rotate_rows(const RotateParams& params) {
    const int64_t rows = params.x.rows, neurons = params.x.columns;
    const RotationPlan plan = rotation_plan(neurons);
    const auto& kernels = cpu::kernels<T>(active_level());
    Workspace workspace(params.workspace, params.workspace_size);
    const int threads = useful_threads(params.threads, rows, params.signs.draws * rows * neurons);
    std::vector<RowScratch<T>> scratch;
    for (int thread = 0; thread < threads; ++thread) scratch.push_back(RowScratch<T>::take(workspace, neurons));

    parallel_for(rows, threads, [&](int64_t row, int thread) {
        const T* x = static_cast<const T*>(params.x.data) + row * params.x.row_stride;
        const RowScratch<T>& s = scratch[thread];
        rotate_row(kernels, plan, params.signs, x, s, [&](int64_t draw) {
            std::copy_n(s.rotated, neurons, static_cast<T*>(params.output) + (draw * rows + row) * neurons);
        });
    });
}

}  // namespace
}  // namespace cpu

void rotation_signs(float* signs, int64_t draws, int64_t neurons, uint64_t seed) {
    for (int64_t round = 0; round < kCommonRounds + draws; ++round) {
        for (int64_t stage = 0; stage < kStages; ++stage, signs += neurons) {
            for (int64_t first = 0; first < neurons; first += 64) {
                const uint64_t word = sign_word(seed, static_cast<uint64_t>(round), static_cast<uint64_t>(stage),
                                                static_cast<uint64_t>(first / 64));
                for (int64_t i = first; i < neurons && i < first + 64; ++i) {
                    signs[i] = (word >> (i - first)) & 1 ? -1.0f : 1.0f;
                }
            }
        }
    }
}

int64_t rotate_workspace(const Matrix& x, int threads) {
    if (x.columns < 1 || threads < 1) throw std::invalid_argument("rotate: neurons and threads must be at least 1");
    return threads * (x.dtype == DType::float64 ? cpu::RowScratch<double>::size(x.columns)
                                                : cpu::RowScratch<float>::size(x.columns));
}

void rotate(const RotateParams& params) {
    if (params.x.columns < 1) throw std::invalid_argument("rotate: neurons must be at least 1");
    switch (params.x.dtype) {
        case DType::float32:
            return cpu::rotate_rows<float>(params);
        case DType::float64:
            return cpu::rotate_rows<double>(params);
        default:
            throw std::invalid_argument("rotate: x must be float32 or float64");
    }
}

}  // namespace univfast
