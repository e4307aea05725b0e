// The one device that there is on the CPU.
#include "../../../csrc/cuda/operations.h"

namespace univfast::cuda {

const char* built_with() { return "the CPU in CUDA's place, for tests"; }

std::string unavailable() { return ""; }

std::vector<Device> devices() { return {}; }

}  // namespace univfast::cuda
