// The only file that knows Python. Pointers come in as integers from tensors that the caller keeps alive.
#include <pybind11/pybind11.h>

#include "cuda/operations.h"
#include "rotation.h"
#include "univfast.h"

namespace py = pybind11;

namespace univfast {
namespace {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Matrix make_matrix(uintptr_t data, DType dtype, int64_t rows, int64_t columns, int64_t row_stride) {
    return {pointer<const void>(data), dtype, rows, columns, row_stride};
}

Signs make_signs(uintptr_t data, int64_t draws) { return {pointer<const float>(data), draws}; }

CoMoments make_co_moments(uintptr_t data, int64_t rows, int64_t columns, int64_t row_stride) {
    return {pointer<double>(data), rows, columns, row_stride};
}

Tile make_tile(const CoMoments& c, uintptr_t row_inverse, uintptr_t skip, int threads) {
    return {c, pointer<const double>(row_inverse), pointer<const int64_t>(skip), threads};
}

py::object as_tuple(const std::optional<BadValue>& bad) {
    if (!bad) return py::none();
    return py::make_tuple(bad->in_b, bad->row, bad->neuron, bad->value);
}

py::object py_paired_moments(const Matrix& a, const Matrix& b, std::pair<uintptr_t, int64_t> rows, const Signs& signs,
                             uintptr_t moments, std::pair<uintptr_t, int64_t> workspace, int threads) {
    const PairedParams params = {a,
                                 b,
                                 pointer<const int64_t>(rows.first),
                                 rows.second,
                                 signs,
                                 pointer<double>(moments),
                                 pointer<std::byte>(workspace.first),
                                 workspace.second,
                                 threads};
    std::optional<BadValue> bad;
    {
        const py::gil_scoped_release released;
        bad = paired_moments(params);
    }
    return as_tuple(bad);
}

py::object py_neuron_moments(const Matrix& x, uintptr_t mean, uintptr_t m2, int threads) {
    std::optional<BadValue> bad;
    {
        const py::gil_scoped_release released;
        bad = neuron_moments({x, pointer<double>(mean), pointer<double>(m2), threads});
    }
    return as_tuple(bad);
}

void py_standardise(const Matrix& x, uintptr_t mean, uintptr_t scale, uintptr_t output, DType output_dtype,
                    int64_t output_stride, int threads) {
    const py::gil_scoped_release released;
    standardise({x, pointer<const double>(mean), pointer<const double>(scale), pointer<void>(output), output_dtype,
                 output_stride, threads});
}

void py_add_product(const CoMoments& c, const Matrix& product, std::pair<uintptr_t, uintptr_t> scales,
                    std::pair<uintptr_t, uintptr_t> deltas, int threads) {
    const py::gil_scoped_release released;
    add_product({c, product, pointer<const double>(scales.first), pointer<const double>(scales.second),
                 pointer<const double>(deltas.first), pointer<const double>(deltas.second), threads});
}

void py_best_pairs(const Tile& tile, uintptr_t column_inverse, std::pair<int64_t, int64_t> first, int64_t count,
                   std::pair<uintptr_t, uintptr_t> best, std::pair<uintptr_t, uintptr_t> column_best,
                   std::pair<uintptr_t, int64_t> workspace) {
    const py::gil_scoped_release released;
    best_pairs({tile, pointer<const double>(column_inverse), first.first, first.second, count,
                pointer<double>(best.first), pointer<int64_t>(best.second), pointer<double>(column_best.first),
                pointer<int64_t>(column_best.second), pointer<std::byte>(workspace.first), workspace.second});
}

void py_rotated_best(const Tile& tile, const Signs& signs, uintptr_t column_inverse, std::pair<uintptr_t, int64_t> best,
                     std::pair<uintptr_t, int64_t> workspace) {
    const py::gil_scoped_release released;
    rotated_best({tile, signs, pointer<const double>(column_inverse), pointer<double>(best.first), best.second,
                  pointer<std::byte>(workspace.first), workspace.second});
}

void py_rotated_variance(const CoMoments& c, const Signs& signs, uintptr_t variance,
                         std::pair<uintptr_t, int64_t> workspace, int threads) {
    const py::gil_scoped_release released;
    rotated_variance(
        {c, signs, pointer<double>(variance), threads, pointer<std::byte>(workspace.first), workspace.second});
}

void py_rotate(const Matrix& x, const Signs& signs, uintptr_t output, std::pair<uintptr_t, int64_t> workspace,
               int threads) {
    const py::gil_scoped_release released;
    rotate({x, signs, pointer<void>(output), pointer<std::byte>(workspace.first), workspace.second, threads});
}

// ---- on a CUDA device: what queues work returns at once, and keeps the interpreter's lock

py::list cuda_devices() {
    std::vector<cuda::Device> devices;
    {
        const py::gil_scoped_release released;
        devices = cuda::devices();
    }
    py::list list;
    for (const cuda::Device& device : devices)
        list.append(py::make_tuple(device.name, device.major, device.minor, device.memory));
    return list;
}

using Address = uintptr_t;
using Piece = std::pair<Address, int64_t>;  // address and bytes
using State = std::pair<Address, Address>;  // moments and counters
using StreamOf = std::pair<int, Address>;   // device and cudaStream_t

cuda::Stream make_stream(const StreamOf& stream) { return {stream.first, pointer<void>(stream.second)}; }

cuda::PairedState make_state(const State& state) {
    return {pointer<double>(state.first), pointer<cuda::Counters>(state.second)};
}

void cuda_paired_update(const Matrix& a, const Matrix& b, Address keep, int64_t first_token, const Signs& signs,
                        const State& before, const State& after, const Piece& workspace, const StreamOf& stream) {
    cuda::paired_update({a, b, pointer<const uint8_t>(keep), first_token, signs, make_state(before), make_state(after),
                         pointer<std::byte>(workspace.first), workspace.second},
                        make_stream(stream));
}

void cuda_rotate(const Matrix& x, const Signs& signs, Address output, const Piece& workspace, const StreamOf& stream) {
    cuda::rotate({x, signs, pointer<void>(output), pointer<std::byte>(workspace.first), workspace.second, 1},
                 make_stream(stream));
}

void cuda_add_product(const CoMoments& c, const Matrix& product, const std::pair<Address, Address>& scales, int count,
                      const std::pair<Address, Address>& deltas, const StreamOf& stream) {
    cuda::add_product({c, product, pointer<const double>(scales.first), pointer<const double>(scales.second), count,
                       pointer<const double>(deltas.first), pointer<const double>(deltas.second)},
                      make_stream(stream));
}

void cuda_best_pairs(const Tile& tile, Address column_inverse, const std::pair<int64_t, int64_t>& first, int64_t count,
                     const std::pair<Address, Address>& best, const std::pair<Address, Address>& column_best,
                     const StreamOf& stream) {
    cuda::best_pairs({tile, pointer<const double>(column_inverse), first.first, first.second, count,
                      pointer<double>(best.first), pointer<int64_t>(best.second), pointer<double>(column_best.first),
                      pointer<int64_t>(column_best.second), nullptr, 0},
                     make_stream(stream));
}

void cuda_rotated_best(const Tile& tile, const Signs& signs, Address column_inverse, const Piece& best,
                       const Piece& workspace, const StreamOf& stream) {
    cuda::rotated_best({tile, signs, pointer<const double>(column_inverse), pointer<double>(best.first), best.second,
                        pointer<std::byte>(workspace.first), workspace.second},
                       make_stream(stream));
}

void bind_cuda(py::module_ m) {
    using namespace py::literals;
    m.def("built_with", &cuda::built_with);
    m.def("unavailable", &cuda::unavailable, py::call_guard<py::gil_scoped_release>());
    m.def("devices", &cuda_devices);
    m.def("paired_update_workspace", &cuda::paired_update_workspace, "a"_a, "b"_a, "draws"_a, "device"_a);
    m.def("paired_update", &cuda_paired_update, py::kw_only(), "a"_a, "b"_a, "keep"_a, "first_token"_a, "signs"_a,
          "before"_a, "after"_a, "workspace"_a, "stream"_a);
    m.def("rotate_workspace", &cuda::rotate_workspace, "x"_a, "device"_a);
    m.def("rotate", &cuda_rotate, py::kw_only(), "x"_a, "signs"_a, "output"_a, "workspace"_a, "stream"_a);
    m.def("add_product", &cuda_add_product, py::kw_only(), "c"_a, "product"_a, "scales"_a, "count"_a, "deltas"_a,
          "stream"_a);
    m.def("best_pairs", &cuda_best_pairs, py::kw_only(), "tile"_a, "column_inverse"_a, "first"_a, "count"_a, "best"_a,
          "column_best"_a, "stream"_a);
    m.def("rotated_best_workspace", &cuda::rotated_best_workspace, "c"_a, "device"_a);
    m.def("rotated_best", &cuda_rotated_best, py::kw_only(), "tile"_a, "signs"_a, "column_inverse"_a, "best"_a,
          "workspace"_a, "stream"_a);
}

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
    using namespace py::literals;
    m.attr("SIGN_STAGES") = kStages;
    m.attr("COMMON_ROUNDS") = kCommonRounds;
    m.attr("COMPILER") = __VERSION__;
    m.def("simd_level", &simd_level);
    m.def("simd_levels", [] {
        py::list names;
        for (const char* name : simd_levels()) names.append(name);
        return names;
    });

    py::enum_<DType>(m, "DType", py::module_local())
        .value("float64", DType::float64)
        .value("float32", DType::float32)
        .value("float16", DType::float16)
        .value("bfloat16", DType::bfloat16);
    py::class_<Matrix>(m, "Matrix", py::module_local())
        .def(py::init(&make_matrix), py::kw_only(), "data"_a, "dtype"_a, "rows"_a, "columns"_a, "row_stride"_a);
    py::class_<Signs>(m, "Signs", py::module_local()).def(py::init(&make_signs), py::kw_only(), "data"_a, "draws"_a);

    m.def("paired_workspace", &paired_workspace, "tokens"_a, "neurons"_a, "draws"_a, "threads"_a);
    m.def("paired_moments", &py_paired_moments, py::kw_only(), "a"_a, "b"_a, "rows"_a, "signs"_a, "moments"_a,
          "workspace"_a, "threads"_a);

    py::class_<CoMoments>(m, "CoMoments", py::module_local())
        .def(py::init(&make_co_moments), py::kw_only(), "data"_a, "rows"_a, "columns"_a, "row_stride"_a);
    py::class_<Tile>(m, "Tile", py::module_local())
        .def(py::init(&make_tile), py::kw_only(), "c"_a, "row_inverse"_a, "skip"_a, "threads"_a);
    m.def("neuron_moments", &py_neuron_moments, py::kw_only(), "x"_a, "mean"_a, "m2"_a, "threads"_a);
    m.def("standardise", &py_standardise, py::kw_only(), "x"_a, "mean"_a, "scale"_a, "output"_a, "output_dtype"_a,
          "output_stride"_a, "threads"_a);
    m.def("add_product", &py_add_product, py::kw_only(), "c"_a, "product"_a, "scales"_a, "deltas"_a, "threads"_a);
    m.def("best_pairs_workspace", &best_pairs_workspace, "c"_a, "threads"_a);
    m.def("best_pairs", &py_best_pairs, py::kw_only(), "tile"_a, "column_inverse"_a, "first"_a, "count"_a, "best"_a,
          "column_best"_a, "workspace"_a);
    m.def("rotated_best_workspace", &rotated_best_workspace, "c"_a, "threads"_a);
    m.def("rotated_best", &py_rotated_best, py::kw_only(), "tile"_a, "signs"_a, "column_inverse"_a, "best"_a,
          "workspace"_a);
    m.def("rotated_variance_workspace", &rotated_variance_workspace, "c"_a, "draws"_a, "threads"_a);
    m.def("rotated_variance", &py_rotated_variance, py::kw_only(), "c"_a, "signs"_a, "variance"_a, "workspace"_a,
          "threads"_a);

    m.def(
        "rotation_signs",
        [](uintptr_t signs, int64_t draws, int64_t neurons, uint64_t seed) {
            rotation_signs(pointer<float>(signs), draws, neurons, seed);
        },
        py::kw_only(), "signs"_a, "draws"_a, "neurons"_a, "seed"_a);
    m.def("rotate_workspace", &rotate_workspace, "x"_a, "threads"_a);
    m.def("rotate", &py_rotate, py::kw_only(), "x"_a, "signs"_a, "output"_a, "workspace"_a, "threads"_a);

    bind_cuda(m.def_submodule("cuda", "The operations on a CUDA device."));
}

}  // namespace univfast
