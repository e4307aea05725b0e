// The CUDA backend of a build without CUDA.
#include "operations.h"

namespace univfast::cuda {

const char* built_with() { return nullptr; }

std::string unavailable() { return "this build has no CUDA"; }

std::vector<Device> devices() { return {}; }

}  // namespace univfast::cuda
