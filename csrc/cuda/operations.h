// The operations on a CUDA device, and their contracts. They are implemented by the .cu files here or, in a build
// without CUDA, by absent.cpp. As in univfast.h the caller owns all memory, workspace
// included; here it is the device's. Operations are queued on a stream and return at once: nothing may be freed or
// changed behind the stream's back. They throw std::invalid_argument on arguments that break a contract and
// std::runtime_error, with CUDA's words, where it fails.
//
// The bits do not depend on when or beside what an operation runs, but on the device's number of multiprocessors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../univfast.h"

namespace univfast::cuda {

// ---- the machine ----------------------------------------------------------------------------------------

// The CUDA runtime and the architectures of this build, such as "13.0 for sm_80 sm_90 ptx_90"; null: it has no CUDA,
// and the operations below throw.
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

struct Stream {
    int device;    // its number
    void* handle;  // cudaStream_t
};

// ---- paired moments -------------------------------------------------------------------------------------

// How many tokens a state holds, and the first bad value (by token) of any batch since `bad_token` was -1.
struct Counters {
    int64_t tokens;
    int64_t bad_token;  // -1: none
    int64_t bad_in_b;   // 0 or 1
    int64_t bad_neuron;
    double bad_value;
};

// moments: [5 + 2 * draws + shifts, neurons], as paired_moments of univfast.h writes them.
struct PairedState {
    double* moments;
    Counters* counters;
};

// `after` = `before` and the tokens of a batch. A batch with a bad value is left out as a whole, and reported in the
// counters. float64 input is summed in float64; any other in float32 within a run of tokens and float64 between runs,
// or in float64 throughout where float32 does not hold the batch.
struct PairedUpdateParams {
    Matrix a;             // [tokens, neurons]
    Matrix b;             // [tokens, neurons], of a's dtype
    const uint8_t* keep;  // [tokens] not 0 for those to use; null: all
    int64_t first_token;  // number of the first token, in reports
    Signs signs;
    Shifts shifts;  // in the device's memory
    PairedState before;
    PairedState after;  // not overlapping before
    std::byte* workspace;
    int64_t workspace_size;  // paired_update_workspace() bytes, aligned to 64
};
int64_t paired_update_workspace(const Matrix& a, const Matrix& b, int64_t draws, const Shifts& shifts, int device);
void paired_update(const PairedUpdateParams& params, const Stream& stream);

// ---- structured rotation --------------------------------------------------------------------------------

// As rotate of univfast.h, on the device; what its params say of threads does not count.
int64_t rotate_workspace(const Matrix& x, int device);
void rotate(const RotateParams& params, const Stream& stream);

// ---- all pairs ------------------------------------------------------------------------------------------

// c[i, j] += product[i, j] * row_scale[i] * column_scale[j] + sum over k of row_delta[k, i] * column_delta[k, j]
struct AddProductsParams {
    CoMoments c;
    Matrix product;              // [rows, columns], float32 or float64
    const double* row_scale;     // [rows]
    const double* column_scale;  // [columns]
    int deltas;                  // k, at most 2
    const double* row_delta;     // [deltas, rows]
    const double* column_delta;  // [deltas, columns]
};
void add_product(const AddProductsParams& params, const Stream& stream);

// As best_pairs and rotated_best of univfast.h, on the device; what their params say of threads does not count.
void best_pairs(const BestPairsParams& params, const Stream& stream);
int64_t rotated_best_workspace(const CoMoments& c, int device);
void rotated_best(const RotatedBestParams& params, const Stream& stream);

}  // namespace univfast::cuda
