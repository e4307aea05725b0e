#include <algorithm>
#include <stdexcept>

#include "kernels.h"
#include "parallel.h"
#include "workspace.h"

namespace univfast {
namespace {

template <class T>
void rotate_rows(const RotateParams& params) {
    const int64_t rows = params.x.rows, neurons = params.x.columns;
    const RotationPlan plan = rotation_plan(neurons);
    const auto& kernels = cpu::kernels<T>(cpu::active_level());
    cpu::Workspace workspace(params.workspace, params.workspace_size);
    const int64_t tasks = params.signs.draws * rows;
    const int threads = cpu::useful_threads(params.threads, tasks, tasks * neurons);
    T* spare = workspace.take<T>(threads * neurons);

    cpu::parallel_for(tasks, threads, [&](int64_t index, int thread) {
        const int64_t draw = index / rows, row = index % rows;
        const T* x = static_cast<const T*>(params.x.data) + row * params.x.row_stride;
        T* rotated = static_cast<T*>(params.output) + index * neurons;
        kernels.rotate_row(plan, x, nullptr, params.signs.data + draw * kStages * neurons, rotated,
                           spare + thread * neurons);
    });
}

}  // namespace

void rotation_signs(float* signs, int64_t draws, int64_t neurons, uint64_t seed) {
    for (int64_t draw = 0; draw < draws; ++draw) {
        for (int64_t stage = 0; stage < kStages; ++stage, signs += neurons) {
            for (int64_t first = 0; first < neurons; first += 64) {
                const uint64_t word = sign_word(seed, static_cast<uint64_t>(draw), static_cast<uint64_t>(stage),
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
    return x.dtype == DType::float64 ? cpu::piece<double>(threads * x.columns) : cpu::piece<float>(threads * x.columns);
}

void rotate(const RotateParams& params) {
    if (params.x.columns < 1) throw std::invalid_argument("rotate: neurons must be at least 1");
    switch (params.x.dtype) {
        case DType::float32:
            return rotate_rows<float>(params);
        case DType::float64:
            return rotate_rows<double>(params);
        default:
            throw std::invalid_argument("rotate: x must be float32 or float64");
    }
}

}  // namespace univfast
