#include "levels.h"

namespace univfast::cpu {

std::vector<const Level*> available_levels() { return {&level_baseline}; }

}  // namespace univfast::cpu
