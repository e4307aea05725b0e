// The structured rotation by itself: a block a row at a time. Reads each value once and writes it once a draw.
#include "../workspace.h"
#include "vectors.cuh"

namespace univfast::cuda {
namespace {

template <class T>
struct Rotation {
    const T* x;
    int64_t rows, row_stride;
    Signs signs;
    T* output;
    RowRoom<T> room;
};

template <class T>
__global__ void __launch_bounds__(kMostRowThreads, 1)
    rotate_kernel(const __grid_constant__ Rotation<T> p, const __grid_constant__ Plan plan) {
    const BlockRow<T> row(plan, p.signs, p.room);
    for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
        row.first([&](int i) { return p.x[r * p.row_stride + i]; });
        for (int64_t draw = 0; draw < p.signs.draws; ++draw) {
            const T* z = row.last(draw);
            T* output = p.output + (draw * p.rows + r) * plan.neurons;
            for (int i = threadIdx.x; i < plan.neurons; i += blockDim.x) output[i] = z[place(i)];
            __syncthreads();
        }
    }
}

template <class T>
void rotate_rows(const RotateParams& p, const Stream& stream) {
    const RowLayout<T> layout(p.x.rows, p.x.columns, 0, stream.device);
    RowRoom<T> room = {};
    if (layout.buffers) room.buffers = Workspace(p.workspace, p.workspace_size).take<T>(layout.buffers);
    const Rotation<T> rotation = {static_cast<const T*>(p.x.data), p.x.rows, p.x.row_stride, p.signs,
                                  static_cast<T*>(p.output),       room};
    launch(rotate_kernel<T>, layout.shape(), stream, rotation, device_plan<T>(p.x.columns, layout.threads));
}

void check(const Matrix& x) {
    if (x.columns < 1) throw std::invalid_argument("rotate: neurons must be at least 1");
    if (x.dtype != DType::float32 && x.dtype != DType::float64) {
        throw std::invalid_argument("rotate: x must be float32 or float64");
    }
}

}  // namespace

int64_t rotate_workspace(const Matrix& x, int device) {
    check(x);
    if (x.dtype == DType::float64) return piece<double>(RowLayout<double>(x.rows, x.columns, 0, device).buffers);
    return piece<float>(RowLayout<float>(x.rows, x.columns, 0, device).buffers);
}

void rotate(const RotateParams& params, const Stream& stream) {
    check(params.x);
    if (params.x.rows == 0 || params.signs.draws == 0) return;
    const OnDevice on(stream.device);
    if (params.x.dtype == DType::float64) return rotate_rows<double>(params, stream);
    rotate_rows<float>(params, stream);
}

}  // namespace univfast::cuda
