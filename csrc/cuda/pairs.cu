// All pairs on a device: co-moments gathered from products, and reduced row by row.
#include <cmath>
#include <limits>

#include "../best.h"
#include "../workspace.h"
#include "vectors.cuh"

namespace univfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr double kNone = -std::numeric_limits<double>::infinity();
constexpr unsigned kAllLanes = 0xffffffff;

// ---- products -------------------------------------------------------------------------------------------

// A pair costs 16 bytes of the state, 4 or 8 of the product, and 4 float64 operations.
template <class T>
__global__ void add_product_kernel(const AddProductsParams p) {
    const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (column >= p.c.columns) return;
    const double scale = p.column_scale[column];
    const double delta = p.deltas > 0 ? p.column_delta[column] : 0.0;
    const double other_delta = p.deltas > 1 ? p.column_delta[p.c.columns + column] : 0.0;
    for (int64_t row = blockIdx.y; row < p.c.rows; row += gridDim.y) {
        const double product =
            static_cast<double>(static_cast<const T*>(p.product.data)[row * p.product.row_stride + column]);
        double sum = product * p.row_scale[row] * scale;
        if (p.deltas > 0) sum += p.row_delta[row] * delta;
        if (p.deltas > 1) sum += p.row_delta[p.c.rows + row] * other_delta;
        p.c.data[row * p.c.row_stride + column] += sum;
    }
}

// ---- the best of rows and columns -----------------------------------------------------------------------

// NaN where the row or the column has no norm, or the row leaves the column out.
__device__ double correlation(const BestPairsParams& p, int64_t row, int64_t column) {
    if (p.tile.skip && p.tile.skip[row] == column) return std::numeric_limits<double>::quiet_NaN();
    const double r =
        p.tile.c.data[row * p.tile.c.row_stride + column] * p.tile.row_inverse[row] * p.column_inverse[column];
    return r > 1 ? 1.0 : (r < -1 ? -1.0 : r);
}

// A warp a row: its lanes look at 32 correlations at a time, most of which are not among the highest.
__global__ void best_of_rows_kernel(const BestPairsParams p) {
    const int lane = threadIdx.x % kWarp;
    const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
    if (row >= p.tile.c.rows) return;
    double* best = p.best + row * p.count;
    int64_t* best_column = p.best_column + row * p.count;
    double lowest = best[p.count - 1];
    for (int64_t first = 0; first < p.tile.c.columns; first += kWarp) {
        const int64_t column = first + lane;
        const double r = column < p.tile.c.columns ? correlation(p, row, column) : kNone;
        for (unsigned higher = __ballot_sync(kAllLanes, r > lowest); higher; higher &= higher - 1) {
            const int from = __ffs(static_cast<int>(higher)) - 1;
            const double value = __shfl_sync(kAllLanes, r, from);
            if (!(value > lowest)) continue;
            if (lane == 0) {
                insert(value, p.first_column + first + from, p.count, best, best_column);
                lowest = best[p.count - 1];
            }
            lowest = __shfl_sync(kAllLanes, lowest, 0);
        }
    }
}

__global__ void best_of_columns_kernel(const BestPairsParams p) {
    const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (column >= p.tile.c.columns) return;
    double best = p.column_best[column];
    int64_t best_row = p.best_row[column];
    for (int64_t row = 0; row < p.tile.c.rows; ++row) {
        const double r = correlation(p, row, column);
        if (!(r > best)) continue;
        best = r;
        best_row = p.first_row + row;
    }
    p.column_best[column] = best;
    p.best_row[column] = best_row;
}

// ---- the best of rotations ------------------------------------------------------------------------------

// A block takes rows in turn, and rotates each by all draws.
__global__ void __launch_bounds__(kMostRowThreads, 1)
    rotated_best_kernel(const __grid_constant__ RotatedBestParams p, const __grid_constant__ RowRoom<double> room,
                        const __grid_constant__ Plan plan) {
    __shared__ double shared[kMostRowThreads];
    const CoMoments& c = p.tile.c;
    const BlockRow<double> own(plan, p.signs, room);
    for (int64_t row = blockIdx.x; row < c.rows; row += gridDim.x) {
        if (std::isnan(p.tile.row_inverse[row])) continue;
        const int64_t skip = p.tile.skip ? p.tile.skip[row] : -1;
        const int64_t single = p.single ? p.single[row] : -1;
        own.first([&](int i) { return c.data[row * c.row_stride + i]; });
        for (int64_t draw = 0; draw < p.signs.draws; ++draw) {
            const double* z = own.last(draw);
            double largest = kNone;
            for (int i = threadIdx.x; i < plan.neurons; i += blockDim.x) {
                const double scaled = z[place(i)] * p.column_inverse[draw * c.columns + i];
                if (i == single) {
                    const double r = scaled * p.tile.row_inverse[row];
                    p.single_r[draw * p.single_stride + row] = r > 1 ? 1.0 : (r < -1 ? -1.0 : r);
                }
                if (scaled > largest && i != skip) largest = scaled;
            }
            largest = block_reduce(largest, shared, [](double x, double y) { return fmax(x, y); });
            double& best = p.best[draw * p.best_stride + row];
            if (threadIdx.x == 0 && largest > kNone) {
                best = fmax(best, fmin(1.0, fmax(-1.0, largest * p.tile.row_inverse[row])));
            }
            __syncthreads();
        }
    }
}

RowLayout<double> rotated_layout(const CoMoments& c, int device) {
    return {c.rows, c.columns, kMostRowThreads * int64_t{sizeof(double)}, device};
}

}  // namespace

void add_product(const AddProductsParams& params, const Stream& stream) {
    if (params.product.rows != params.c.rows || params.product.columns != params.c.columns) {
        throw std::invalid_argument("add_product: product and c must have one shape");
    }
    if (params.deltas < 0 || params.deltas > 2) throw std::invalid_argument("add_product: at most 2 deltas");
    if (params.c.rows == 0 || params.c.columns == 0) return;
    const OnDevice on(stream.device);
    constexpr int64_t kMostBlockRows = 4096;
    const Shape shape = {
        dim3(blocks_for(params.c.columns, kThreads), static_cast<unsigned>(std::min(params.c.rows, kMostBlockRows))),
        kThreads};
    switch (params.product.dtype) {
        case DType::float32:
            return launch(add_product_kernel<float>, shape, stream, params);
        case DType::float64:
            return launch(add_product_kernel<double>, shape, stream, params);
        default:
            throw std::invalid_argument("add_product: product must be float32 or float64");
    }
}

void best_pairs(const BestPairsParams& params, const Stream& stream) {
    if (params.count < 1) throw std::invalid_argument("best_pairs: count must be at least 1");
    const CoMoments& c = params.tile.c;
    if (c.rows == 0 || c.columns == 0) return;
    const OnDevice on(stream.device);
    launch(best_of_rows_kernel, {dim3(blocks_for(c.rows, kThreads / kWarp)), kThreads}, stream, params);
    if (params.column_best) {
        launch(best_of_columns_kernel, {dim3(blocks_for(c.columns, kThreads)), kThreads}, stream, params);
    }
}

int64_t rotated_best_workspace(const CoMoments& c, int device) {
    return piece<double>(rotated_layout(c, device).buffers);
}

void rotated_best(const RotatedBestParams& params, const Stream& stream) {
    const CoMoments& c = params.tile.c;
    if (c.columns < 1) throw std::invalid_argument("rotated_best: at least one column is needed");
    if (c.rows == 0 || params.signs.draws == 0) return;
    const OnDevice on(stream.device);
    const RowLayout<double> layout = rotated_layout(c, stream.device);
    RowRoom<double> room = {};
    if (layout.buffers) room.buffers = Workspace(params.workspace, params.workspace_size).take<double>(layout.buffers);
    launch(rotated_best_kernel, layout.shape(), stream, params, room, device_plan<double>(c.columns, layout.threads));
}

}  // namespace univfast::cuda
