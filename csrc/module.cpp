// The only file that knows Python. Pointers come in as integers from tensors that the caller keeps alive.
#include <pybind11/pybind11.h>

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
    if (!bad) return py::none();
    return py::make_tuple(bad->in_b, bad->row, bad->neuron, bad->value);
}

void py_rotate(const Matrix& x, const Signs& signs, uintptr_t output, std::pair<uintptr_t, int64_t> workspace,
               int threads) {
    const py::gil_scoped_release released;
    rotate({x, signs, pointer<void>(output), pointer<std::byte>(workspace.first), workspace.second, threads});
}

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
    using namespace py::literals;
    m.attr("SIGN_STAGES") = kStages;
    m.attr("COMPILER") = __VERSION__;
    m.def("simd_level", &simd_level);
    m.def("simd_levels", [] {
        py::list names;
        for (const char* name : simd_levels()) names.append(name);
        return names;
    });

    py::enum_<DType>(m, "DType")
        .value("float64", DType::float64)
        .value("float32", DType::float32)
        .value("float16", DType::float16)
        .value("bfloat16", DType::bfloat16);
    py::class_<Matrix>(m, "Matrix")
        .def(py::init(&make_matrix), py::kw_only(), "data"_a, "dtype"_a, "rows"_a, "columns"_a, "row_stride"_a);
    py::class_<Signs>(m, "Signs").def(py::init(&make_signs), py::kw_only(), "data"_a, "draws"_a);

    m.def("paired_workspace", &paired_workspace, "tokens"_a, "neurons"_a, "draws"_a, "threads"_a);
    m.def("paired_moments", &py_paired_moments, py::kw_only(), "a"_a, "b"_a, "rows"_a, "signs"_a, "moments"_a,
          "workspace"_a, "threads"_a);

    m.def(
        "rotation_signs",
        [](uintptr_t signs, int64_t draws, int64_t neurons, uint64_t seed) {
            rotation_signs(pointer<float>(signs), draws, neurons, seed);
        },
        py::kw_only(), "signs"_a, "draws"_a, "neurons"_a, "seed"_a);
    m.def("rotate_workspace", &rotate_workspace, "x"_a, "threads"_a);
    m.def("rotate", &py_rotate, py::kw_only(), "x"_a, "signs"_a, "output"_a, "workspace"_a, "threads"_a);
}

}  // namespace univfast
