// Whole rows by all threads of a block.
#pragma once

#include "launch.h"
#include "transform.cuh"

namespace univfast::cuda {

constexpr int kMostRowThreads = 512;

// Two rows of T a block: in shared memory, or in global memory where they are too long.
template <class T>
struct RowRoom {
    T* buffers;  // [blocks, 2, padded(neurons)]; null: in shared memory

    __device__ T* rows(int neurons) const {
        if (!buffers) return reinterpret_cast<T*>(shared_memory());
        return buffers + int64_t{blockIdx.x} * 2 * padded(neurons);
    }
};

// How rows are divided over a device.
template <class T>
struct RowLayout {
    int threads;
    int blocks;
    int64_t shared;   // bytes a block
    int64_t buffers;  // values of all blocks in global memory

    // For so many rows; `static_shared` bytes are the kernel's own.
    RowLayout(int64_t rows, int64_t neurons, int64_t static_shared, int device) {
        constexpr int kPerThread = 1 << kMostStages<T>;
        constexpr int64_t kOfCuda = 1024;  // bytes of shared memory of a block
        const int64_t wanted = blocks_for(neurons, int64_t{kPerThread} * kWarp) * int64_t{kWarp};
        threads = static_cast<int>(std::min<int64_t>(kMostRowThreads, wanted));
        const int64_t values = 2 * padded(static_cast<int>(neurons)), bytes = values * int64_t{sizeof(T)};
        const bool fits = bytes + static_shared + kOfCuda <= most_shared(device);
        // Enough blocks to hide each other's barriers.
        constexpr int64_t kBlocksAtOnce = 8;
        blocks = static_cast<int>(std::min(rows, kBlocksAtOnce * multiprocessors(device)));
        shared = fits ? bytes : 0;
        buffers = fits ? 0 : blocks * values;
    }

    Shape shape() const { return {dim3(static_cast<unsigned>(blocks)), threads, shared}; }
};

// Rows that a block has in hand: rotate_first(load) and then z = rotate_last(draw), padded.
template <class T>
class BlockRow {
 public:
    __device__ BlockRow(const Plan& plan, const Signs& signs, const RowRoom<T>& room)
        : plan_(plan), signs_(signs), mid_(room.rows(plan.neurons)), z_(mid_ + padded(plan.neurons)) {}

    template <class Load>
    __device__ void first(const Load& load) const {
        rotate_first(plan_, load, source(0), mid_, z_, lanes());
    }

    __device__ const T* last(int64_t draw) const {
        rotate_last(plan_, source(draw), mid_, z_, lanes());
        return z_;
    }

 private:
    __device__ SignArray source(int64_t draw) const { return {signs_, draw, plan_.neurons}; }
    __device__ Lanes lanes() const { return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), 0, 0}; }

    const Plan& plan_;
    const Signs& signs_;
    T* mid_;
    T* z_;
};

// The values of all threads of a block as one, to all of them: two at a time by `take`, whose order must not matter.
template <class Take>
__device__ double block_reduce(double own, double (&shared)[kMostRowThreads], const Take& take) {
    shared[threadIdx.x] = own;
    __syncthreads();
    for (unsigned left = blockDim.x; left > 1; left = (left + 1) / 2) {
        const unsigned other = threadIdx.x + (left + 1) / 2;
        if (other < left) shared[threadIdx.x] = take(shared[threadIdx.x], shared[other]);
        __syncthreads();
    }
    return shared[0];
}

}  // namespace univfast::cuda
