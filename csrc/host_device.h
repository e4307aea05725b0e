// Marks a function that the CUDA compiler must build for both sides.
#pragma once

#ifdef __CUDACC__
#define UNIVFAST_HOST_DEVICE __host__ __device__
#else
#define UNIVFAST_HOST_DEVICE
#endif
