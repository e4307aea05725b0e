// How a thread rounds, and whether it keeps numbers below the smallest normal one: another library may have told it
// not to (torch.set_flush_denormal, or one that was compiled with -ffast-math). Threads that it starts do as it does.
#pragma once

#include <cfenv>
#include <cfloat>
#include <optional>

namespace univfast {

inline bool floats_are_plain() {
    const volatile double smallest = DBL_MIN, below = DBL_MIN / 4;
    return std::fegetround() == FE_TONEAREST && smallest / 2 > 0 && below * 4 > 0;
}

// Has this thread compute as IEEE 754 says; returns how it did before, if that was another way.
inline std::optional<std::fenv_t> make_floats_plain() {
    if (floats_are_plain()) return std::nullopt;
    std::fenv_t before;
    std::fegetenv(&before);
    std::fesetenv(FE_DFL_ENV);
    return before;
}

}  // namespace univfast
