// Which instruction-set levels were built and run here. One definition a processor family: levels_*.cpp.
#pragma once

#include <vector>

#include "kernels.h"

namespace univfast::cpu {

// From the plainest to the best. Never empty.
std::vector<const Level*> available_levels();

}  // namespace univfast::cpu
