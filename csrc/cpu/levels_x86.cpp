#include "levels.h"

namespace univfast::cpu {

namespace {

// The loops of AVX-512, and products of bfloat16 beside them.
const Level& level_avx512bf16() {
    static const Level level = {"avx512bf16", level_avx512.float32, level_avx512.float64, level_avx512.rows,
                                &products_avx512bf16};
    return level;
}

}  // namespace

std::vector<const Level*> available_levels() {
    std::vector<const Level*> levels = {&level_baseline};
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2) levels.push_back(&level_avx2);
    if (avx512) levels.push_back(&level_avx512);
    if (avx512 && __builtin_cpu_supports("avx512bf16")) levels.push_back(&level_avx512bf16());
    return levels;
}

}  // namespace univfast::cpu
