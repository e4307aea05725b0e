#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "levels.h"

namespace univfast::cpu {
namespace {

const Level& choose() {
    const auto levels = available_levels();
    const char* forced = std::getenv("UNIVFAST_SIMD");
    if (forced == nullptr || *forced == '\0') return *levels.back();
    std::string names;
    for (const Level* level : levels) {
        if (std::string_view(level->name) == forced) return *level;
        names += std::string(names.empty() ? "" : ", ") + level->name;
    }
    throw std::invalid_argument("UNIVFAST_SIMD=" + std::string(forced) + ": this build and processor have " + names);
}

}  // namespace

const Level& active_level() {
    static const Level& level = choose();
    return level;
}

}  // namespace univfast::cpu

namespace univfast {

const char* simd_level() { return cpu::active_level().name; }

std::vector<const char*> simd_levels() {
    std::vector<const char*> names;
    for (const cpu::Level* level : cpu::available_levels()) names.push_back(level->name);
    return names;
}

}  // namespace univfast
