// What this build and this machine have of CUDA. The runtime is linked statically and looks for the driver when it is
// first asked something, so the extension loads on a machine without either.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

#include "operations.h"

namespace univfast::cuda {
namespace {

// The lowest architecture that there is code for, as major * 100 + minor * 10. Older devices cannot run any of it.
constexpr int kLowest = std::min({__CUDA_ARCH_LIST__});

std::string dotted(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

struct Count {
    int devices = 0;
    cudaError_t error = cudaSuccess;
};

Count count_devices() {
    Count count;
    count.error = cudaGetDeviceCount(&count.devices);
    if (count.error != cudaSuccess) {
        count.devices = 0;
        cudaGetLastError();  // else the next check of a kernel would report this error
    }
    return count;
}

// The runtime reports a driver that is missing and one that is too old as the same error.
bool has_driver() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess && version > 0;
}

bool can_run(const Device& device) { return device.major * 100 + device.minor * 10 >= kLowest; }

}  // namespace

const char* built_with() {
    static const std::string text =
        dotted(CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10) + " for " UNIVFAST_CUDA_ARCHITECTURES;
    return text.c_str();
}

std::string unavailable() {
    const cudaError_t error = count_devices().error;
    if (error == cudaErrorInsufficientDriver)
        return has_driver() ? "the driver is older than the CUDA runtime" : "no driver";
    if (error != cudaSuccess && error != cudaErrorNoDevice) return cudaGetErrorString(error);
    const std::vector<Device> found = devices();
    if (found.empty()) return "no device";
    if (std::none_of(found.begin(), found.end(), can_run))
        return "no device of compute capability " + dotted(kLowest / 100, kLowest % 100 / 10) + " or higher";
    return "";
}

std::vector<Device> devices() {
    std::vector<Device> found;
    const int count = count_devices().devices;
    for (int number = 0; number < count; ++number) {
        cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, number) != cudaSuccess)
            throw std::runtime_error(cudaGetErrorString(cudaGetLastError()));
        found.push_back(
            {properties.name, properties.major, properties.minor, static_cast<int64_t>(properties.totalGlobalMem)});
    }
    return found;
}

}  // namespace univfast::cuda
