// The CUDA backend of a build without CUDA.
#include <stdexcept>

#include "operations.h"

namespace univfast::cuda {
namespace {

[[noreturn]] void refuse() { throw std::runtime_error(unavailable()); }

}  // namespace

const char* built_with() { return nullptr; }

std::string unavailable() { return "this build has no CUDA"; }

std::vector<Device> devices() { return {}; }

int64_t paired_update_workspace(const Matrix&, const Matrix&, int64_t, const Shifts&, int) { refuse(); }

void paired_update(const PairedUpdateParams&, const Stream&) { refuse(); }

int64_t rotate_workspace(const Matrix&, int) { refuse(); }

void rotate(const RotateParams&, const Stream&) { refuse(); }

void add_product(const AddProductsParams&, const Stream&) { refuse(); }

void best_pairs(const BestPairsParams&, const Stream&) { refuse(); }

int64_t rotated_best_workspace(const CoMoments&, int) { refuse(); }

void rotated_best(const RotatedBestParams&, const Stream&) { refuse(); }

}  // namespace univfast::cuda
