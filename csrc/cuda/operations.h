// What the CUDA backend offers. It is implemented by the .cu files here or, in a build without CUDA, by absent.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace univfast::cuda {

// The CUDA runtime and the architectures of this build, such as "13.0 for sm_80 sm_90 ptx_90"; null: it has no CUDA.
const char* built_with();

// Why no device can be used, in one line; empty where one can be.
std::string unavailable();

struct Device {
    std::string name;
    int major;  // of its compute capability
    int minor;
    int64_t memory;  // bytes
};

// The devices, by their CUDA number; none where there is no driver or no device.
std::vector<Device> devices();

}  // namespace univfast::cuda
