// The only file that knows Python. Addresses come in as integers from tensors that the caller keeps alive; what each
// operation does with them is said in univfast.h, sparse.h and cuda/operations.h. The same names stand in
// univfast/_native.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "cuda/operations.h"
#include "floats.h"
#include "packed.h"
#include "rotation.h"
#include "sparse.h"
#include "univfast.h"

namespace py = pybind11;
using namespace py::literals;

namespace univfast {
namespace {

using Address = uintptr_t;                                       // of the first element; 0: there is none
using Workspace = std::pair<Address, int64_t>;                   // and its size in bytes
using Rows = std::pair<Address, int64_t>;                        // numbers of rows, and how many
using Strided = std::pair<Address, int64_t>;                     // and the stride of what it holds
using Sides = std::pair<Address, Address>;                       // of the rows, and of the columns
using Found = std::pair<Address, Address>;                       // correlations, and where they are
using ContextsAt = std::tuple<Address, Address, Address>;        // values, tokens, and the partner's values
using Numbers = std::pair<int64_t, int64_t>;                     // of the first row, and of the first column
using PackedAt = std::tuple<Address, int64_t, int64_t>;          // and how many neurons, and the first
using ListAt = std::pair<Address, Address>;                      // values, and their tokens
using StateAt = std::pair<Address, Address>;                     // moments, and counters
using StreamOf = std::pair<int, Address>;                        // device, and its cudaStream_t
using Bad = std::tuple<bool, int64_t, int64_t, double>;          // in b, row, neuron, value
using DeviceFacts = std::tuple<std::string, int, int, int64_t>;  // name, major, minor, bytes

using Released = py::call_guard<py::gil_scoped_release>;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

std::optional<Bad> as_tuple(const std::optional<BadValue>& bad) {
    if (!bad) return std::nullopt;
    return Bad(bad->in_b, bad->row, bad->neuron, bad->value);
}

// ---- what operations are told of tensors ----------------------------------------------------------------

Matrix make_matrix(Address data, DType dtype, int64_t rows, int64_t columns, int64_t row_stride) {
    return {at<const void>(data), dtype, rows, columns, row_stride};
}

Signs make_signs(Address data, int64_t draws) { return {at<const float>(data), draws}; }

Shifts make_shifts(Address leads, Address lags, int64_t count, int64_t lag_count) {
    return {at<const int64_t>(leads), at<const int64_t>(lags), count, lag_count};
}

CoMoments make_co_moments(Address data, int64_t rows, int64_t columns, int64_t row_stride) {
    return {at<double>(data), rows, columns, row_stride};
}

Tile make_tile(const CoMoments& c, Address row_inverse, Address skip, int threads) {
    return {c, at<const double>(row_inverse), at<const int64_t>(skip), threads};
}

PairRows make_pair_rows(Address starts, Address places, int64_t count) {
    return {at<const int64_t>(starts), at<const int64_t>(places), count};
}

void bind_views(py::module_& m) {
    py::enum_<DType>(m, "DType", py::module_local())
        .value("float64", DType::float64)
        .value("float32", DType::float32)
        .value("float16", DType::float16)
        .value("bfloat16", DType::bfloat16);
    py::class_<Matrix>(m, "Matrix", py::module_local())
        .def(py::init(&make_matrix), py::kw_only(), "data"_a, "dtype"_a, "rows"_a, "columns"_a, "row_stride"_a);
    py::class_<Signs>(m, "Signs", py::module_local()).def(py::init(&make_signs), py::kw_only(), "data"_a, "draws"_a);
    py::class_<Shifts>(m, "Shifts", py::module_local())
        .def(py::init(&make_shifts), py::kw_only(), "leads"_a, "lags"_a, "count"_a, "lag_count"_a);
    py::class_<CoMoments>(m, "CoMoments", py::module_local())
        .def(py::init(&make_co_moments), py::kw_only(), "data"_a, "rows"_a, "columns"_a, "row_stride"_a);
    py::class_<Tile>(m, "Tile", py::module_local())
        .def(py::init(&make_tile), py::kw_only(), "c"_a, "row_inverse"_a, "skip"_a, "threads"_a);
}

// ---- how this thread computes ---------------------------------------------------------------------------

std::optional<py::bytes> plain_floats() {
    const auto before = make_floats_plain();
    if (!before) return std::nullopt;
    return py::bytes(reinterpret_cast<const char*>(&*before), sizeof *before);
}

void restore_floats(const std::string& before) {
    std::fenv_t found;
    if (before.size() != sizeof found) throw std::invalid_argument("restore_floats: not what plain_floats gave");
    std::memcpy(&found, before.data(), sizeof found);
    std::fesetenv(&found);
}

// ---- on the CPU: the interpreter's lock is released while an operation runs -----------------------------

namespace on_cpu {

std::optional<Bad> paired_moments(const Matrix& a, const Matrix& b, const Rows& rows, const Signs& signs,
                                  const Shifts& shifts, Address moments, const Workspace& workspace, int threads) {
    return as_tuple(
        univfast::paired_moments({a, b, at<const int64_t>(rows.first), rows.second, signs, shifts, at<double>(moments),
                                  at<std::byte>(workspace.first), workspace.second, threads}));
}

std::optional<Bad> neuron_moments(const Matrix& x, Address mean, Address m2, int threads) {
    return as_tuple(univfast::neuron_moments({x, at<double>(mean), at<double>(m2), threads}));
}

void standardise(const Matrix& x, Address mean, Address scale, Address output, DType output_dtype,
                 int64_t output_stride, int threads) {
    univfast::standardise(
        {x, at<const double>(mean), at<const double>(scale), at<void>(output), output_dtype, output_stride, threads});
}

Terms make_terms(const Sides& scales, int count, const Sides& deltas) {
    return {at<const double>(scales.first), at<const double>(scales.second), count, at<const double>(deltas.first),
            at<const double>(deltas.second)};
}

void add_product(const CoMoments& c, const Matrix& product, const Sides& scales, int count, const Sides& deltas,
                 int threads) {
    univfast::add_product({c, product, make_terms(scales, count, deltas), threads});
}

void pack(const Matrix& x, Address scale, const PackedAt& packed, int threads) {
    const auto [data, neurons, first] = packed;
    univfast::pack({x, at<const float>(scale), first, neurons, at<uint32_t>(data), threads});
}

void add_packed_product(const CoMoments& c, const PackedAt& x, const PackedAt& y, int64_t tokens, const Sides& scales,
                        int count, const Sides& deltas, const Workspace& workspace, int threads) {
    const auto packed = [](const PackedAt& layer) {
        return Packed{at<const uint32_t>(std::get<0>(layer)), std::get<1>(layer), std::get<2>(layer)};
    };
    univfast::add_packed_product({c, packed(x), packed(y), tokens, make_terms(scales, count, deltas),
                                  at<std::byte>(workspace.first), workspace.second, threads});
}

void best_pairs(const Tile& tile, Address column_inverse, const Numbers& first, int64_t count, const Found& best,
                const Found& column_best, const Workspace& workspace) {
    univfast::best_pairs({tile, at<const double>(column_inverse), first.first, first.second, count,
                          at<double>(best.first), at<int64_t>(best.second), at<double>(column_best.first),
                          at<int64_t>(column_best.second), at<std::byte>(workspace.first), workspace.second});
}

void rotated_best(const Tile& tile, const Signs& signs, Address column_inverse, const Strided& best, Address single,
                  const Strided& single_r, const Workspace& workspace) {
    univfast::rotated_best({tile, signs, at<const double>(column_inverse), at<double>(best.first), best.second,
                            at<const int64_t>(single), at<double>(single_r.first), single_r.second,
                            at<std::byte>(workspace.first), workspace.second});
}

void rotated_variance(const CoMoments& c, const Signs& signs, Address variance, const Workspace& workspace,
                      int threads) {
    univfast::rotated_variance(
        {c, signs, at<double>(variance), threads, at<std::byte>(workspace.first), workspace.second});
}

Contexts contexts_at(const ContextsAt& top) {
    return {at<double>(std::get<0>(top)), at<int64_t>(std::get<1>(top)), at<double>(std::get<2>(top))};
}

void pair_details(const Sides& frame, DType dtype, const std::vector<Matrix>& a, const std::vector<Matrix>& b,
                  Address match, const Rows& rows, int64_t first_token, const Rows& ends, const Sides& sums,
                  const std::pair<ContextsAt, ContextsAt>& top, int64_t count, int threads) {
    univfast::pair_details({a,
                            b,
                            at<const int64_t>(match),
                            at<const int64_t>(rows.first),
                            rows.second,
                            first_token,
                            at<const int64_t>(ends.first),
                            ends.second,
                            dtype,
                            at<const void>(frame.first),
                            at<const void>(frame.second),
                            at<double>(sums.first),
                            at<double>(sums.second),
                            {contexts_at(top.first), contexts_at(top.second)},
                            count,
                            threads});
}

void group_sums(const Matrix& x, const Rows& rows, Address groups, Address pivot, const Strided& sums, int64_t count,
                int threads) {
    univfast::group_sums({x, at<const int64_t>(rows.first), at<const int64_t>(groups), rows.second,
                          at<const double>(pivot), at<double>(sums.first), sums.second, count, threads});
}

void extreme_tokens(const Matrix& x, Address tokens, const ListAt& high, const ListAt& low, int64_t count,
                    int threads) {
    const auto list = [](const ListAt& at_list) {
        return ExtremeList{at<float>(at_list.first), at<int64_t>(at_list.second)};
    };
    univfast::extreme_tokens({x, at<const int64_t>(tokens), list(high), list(low), count, threads});
}

void standardise_transposed(const Matrix& x, Address mean, Address scale, Address output, DType output_dtype,
                            int64_t output_stride, int threads) {
    univfast::standardise_transposed(
        {x, at<const double>(mean), at<const double>(scale), at<void>(output), output_dtype, output_stride, threads});
}

void candidate_products(const Matrix& x, const Matrix& y, const PairRows& pairs, const Sides& scales,
                        const Sides& deltas, Address sums, int threads) {
    univfast::candidate_products({x, y, pairs, at<const double>(scales.first), at<const double>(scales.second),
                                  at<const double>(deltas.first), at<const double>(deltas.second), at<double>(sums),
                                  threads});
}

void rotation_signs(Address signs, int64_t draws, int64_t neurons, uint64_t seed) {
    univfast::rotation_signs(at<float>(signs), draws, neurons, seed);
}

void rotate(const Matrix& x, const Signs& signs, Address output, const Workspace& workspace, int threads) {
    univfast::rotate({x, signs, at<void>(output), at<std::byte>(workspace.first), workspace.second, threads});
}

}  // namespace on_cpu

void bind_cpu(py::module_& m) {
    const py::kw_only named;
    m.attr("SIGN_STAGES") = kStages;
    m.attr("COMMON_ROUNDS") = kCommonRounds;
    m.attr("SHARED_LAGS") = kSharedLags;
    m.attr("COMPILER") = __VERSION__;
    m.def("plain_floats", &plain_floats);
    m.def("restore_floats", &restore_floats, "before"_a);
    m.def("simd_level", &simd_level);
    m.def("simd_levels", &simd_levels);

    m.def("paired_workspace", &paired_workspace, "tokens"_a, "neurons"_a, "draws"_a, "shifts"_a, "threads"_a);
    m.def("paired_moments", &on_cpu::paired_moments, Released(), named, "a"_a, "b"_a, "rows"_a, "signs"_a, "shifts"_a,
          "moments"_a, "workspace"_a, "threads"_a);
    m.def("neuron_moments", &on_cpu::neuron_moments, Released(), named, "x"_a, "mean"_a, "m2"_a, "threads"_a);
    m.def("standardise", &on_cpu::standardise, Released(), named, "x"_a, "mean"_a, "scale"_a, "output"_a,
          "output_dtype"_a, "output_stride"_a, "threads"_a);
    m.def("add_product", &on_cpu::add_product, Released(), named, "c"_a, "product"_a, "scales"_a, "count"_a, "deltas"_a,
          "threads"_a);
    m.def("multiplies_bfloat16", &multiplies_bfloat16);
    m.def("packed_size", &packed_size, "tokens"_a, "neurons"_a);
    m.def("pack", &on_cpu::pack, Released(), named, "x"_a, "scale"_a, "packed"_a, "threads"_a);
    m.def("packed_product_workspace", &packed_product_workspace, "c"_a, "threads"_a);
    m.def("add_packed_product", &on_cpu::add_packed_product, Released(), named, "c"_a, "x"_a, "y"_a, "tokens"_a,
          "scales"_a, "count"_a, "deltas"_a, "workspace"_a, "threads"_a);
    m.def("best_pairs_workspace", &best_pairs_workspace, "c"_a, "threads"_a);
    m.def("best_pairs", &on_cpu::best_pairs, Released(), named, "tile"_a, "column_inverse"_a, "first"_a, "count"_a,
          "best"_a, "column_best"_a, "workspace"_a);
    m.def("rotated_best_workspace", &rotated_best_workspace, "c"_a, "threads"_a);
    m.def("rotated_best", &on_cpu::rotated_best, Released(), named, "tile"_a, "signs"_a, "column_inverse"_a, "best"_a,
          "single"_a, "single_r"_a, "workspace"_a);
    m.def("rotated_variance_workspace", &rotated_variance_workspace, "c"_a, "draws"_a, "threads"_a);
    m.def("rotated_variance", &on_cpu::rotated_variance, Released(), named, "c"_a, "signs"_a, "variance"_a,
          "workspace"_a, "threads"_a);
    m.def("pair_details", &on_cpu::pair_details, Released(), named, "frame"_a, "dtype"_a, "a"_a, "b"_a, "match"_a,
          "rows"_a, "first_token"_a, "ends"_a, "sums"_a, "top"_a, "count"_a, "threads"_a);
    m.def("group_sums", &on_cpu::group_sums, Released(), named, "x"_a, "rows"_a, "groups"_a, "pivot"_a, "sums"_a,
          "count"_a, "threads"_a);
    m.def("extreme_tokens", &on_cpu::extreme_tokens, Released(), named, "x"_a, "tokens"_a, "high"_a, "low"_a, "count"_a,
          "threads"_a);
    m.def("rotation_signs", &on_cpu::rotation_signs, named, "signs"_a, "draws"_a, "neurons"_a, "seed"_a);
    m.def("rotate_workspace", &rotate_workspace, "x"_a, "threads"_a);
    m.def("rotate", &on_cpu::rotate, Released(), named, "x"_a, "signs"_a, "output"_a, "workspace"_a, "threads"_a);
}

// ---- sparse features -------------------------------------------------------------------------------------

namespace on_cpu {

Grouped make_grouped(Address starts, Address numbers, Address values, int64_t groups) {
    return {at<const int64_t>(starts), at<const int32_t>(numbers), at<const void>(values), groups};
}

void group_entries(Address keys, const Grouped& entries, DType dtype, int64_t count, const Grouped& grouped,
                   int threads) {
    univfast::group_entries({at<const int32_t>(keys), entries.numbers, entries.values, dtype, count, grouped.groups,
                             const_cast<int64_t*>(grouped.starts), const_cast<int32_t*>(grouped.numbers),
                             const_cast<void*>(grouped.values), threads});
}

Entries make_entries(Address tokens, Address features, Address values, DType dtype, int64_t count, int64_t width) {
    return {at<const int32_t>(tokens), at<const int32_t>(features), at<const void>(values), dtype, count, width};
}

std::optional<int64_t> repeated_entry(const Entries& entries, Address seen) {
    return univfast::repeated_entry(entries, at<int64_t>(seen));
}

void add_entry_moments(const Entries& entries, Address sums, Address squares) {
    univfast::add_entry_moments(entries, at<double>(sums), at<double>(squares));
}

void add_entry_products(const CoMoments& c, const Grouped& rows, const Grouped& columns, DType dtype, int threads) {
    univfast::add_entry_products({c, rows, columns, dtype, threads});
}

}  // namespace on_cpu

void bind_sparse(py::module_& m) {
    const py::kw_only named;
    py::class_<Grouped>(m, "Grouped", py::module_local())
        .def(py::init(&on_cpu::make_grouped), named, "starts"_a, "numbers"_a, "values"_a, "groups"_a);
    m.def("group_entries", &on_cpu::group_entries, Released(), named, "keys"_a, "entries"_a, "dtype"_a, "count"_a,
          "grouped"_a, "threads"_a);
    py::class_<Entries>(m, "Entries", py::module_local())
        .def(py::init(&on_cpu::make_entries), named, "tokens"_a, "features"_a, "values"_a, "dtype"_a, "count"_a,
             "width"_a);
    m.def("repeated_entry", &on_cpu::repeated_entry, Released(), named, "entries"_a, "seen"_a);
    m.def("add_entry_moments", &on_cpu::add_entry_moments, Released(), named, "entries"_a, "sums"_a, "squares"_a);
    m.def("add_entry_products", &on_cpu::add_entry_products, Released(), named, "c"_a, "rows"_a, "columns"_a, "dtype"_a,
          "threads"_a);
}

void bind_candidates(py::module_& m) {
    const py::kw_only named;
    py::class_<PairRows>(m, "PairRows", py::module_local())
        .def(py::init(&make_pair_rows), named, "starts"_a, "places"_a, "count"_a);
    m.def("standardise_transposed", &on_cpu::standardise_transposed, Released(), named, "x"_a, "mean"_a, "scale"_a,
          "output"_a, "output_dtype"_a, "output_stride"_a, "threads"_a);
    m.def("candidate_products", &on_cpu::candidate_products, Released(), named, "x"_a, "y"_a, "pairs"_a, "scales"_a,
          "deltas"_a, "sums"_a, "threads"_a);
}

#include "module_cuda.inc"

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
    bind_views(m);
    bind_cpu(m);
    bind_sparse(m);
    bind_candidates(m);
    bind_cuda(m.def_submodule("cuda", "The operations on a CUDA device."));
}

}  // namespace univfast
