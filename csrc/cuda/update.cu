// Takes a batch into a state: pivots, sums (paired.cu, rotated.cu, shifted.cu), central moments of them, and the merge.
// Everything is decided on the device: the kernels that sum in float64 are queued behind those that sum in float32, and
// return at once where these held the batch.
#include <optional>

#include "../shifts.h"
#include "../workspace.h"
#include "launch.h"
#include "moments.cuh"

namespace univfast::cuda {
namespace {

constexpr int64_t kMostShifts = 65535;  // rows of a launch

// How the sums of a batch are divided, in one precision.
struct Division {
    int64_t pair_parts;
    RotatedLayout first, others;  // of the first draw and of all others
    int64_t other_draws;
    int64_t shifted_parts;

    Division(const Batch& batch, int64_t draws, const Shifts& shifts, bool in_float64, int device)
        : first{},
          others{},
          other_draws(std::max<int64_t>(0, draws - 1)),
          shifted_parts(cuda::shifted_parts(batch, shifts, in_float64, device)) {
        if (draws > 0) first = rotated_layout(batch, in_float64, 1, device);
        if (draws > 1) others = rotated_layout(batch, in_float64, other_draws, device);
        pair_parts = first.pairs ? first.parts : cuda::pair_parts(batch, in_float64, device);
    }

    int64_t pair_values() const { return pair_parts * kPairRows; }
    int64_t rotated_values() const { return (first.parts + other_draws * others.parts) * kRotatedRows; }
    int64_t buffer_bytes() const {
        const auto of = [](const RotatedLayout& l, int64_t d) {
            return l.teams ? l.parts / l.teams * d * l.buffers : 0;
        };
        return std::max(of(first, 1), of(others, other_draws));
    }
};

// How all of a call is divided. A batch of float64 is summed in float64 alone.
struct Divisions {
    std::optional<Division> in_float32;
    Division in_float64;
    DrawLayout draws;

    Divisions(const Batch& batch, int64_t draw_count, const Shifts& shifts, int device)
        : in_float64(batch, draw_count, shifts, true, device), draws(draw_layout(batch.neurons, draw_count, device)) {
        if (batch.dtype != DType::float64) in_float32.emplace(batch, draw_count, shifts, false, device);
    }

    // The most that either precision needs.
    template <class Need>
    int64_t most(const Need& need) const {
        return std::max(in_float32 ? need(*in_float32) : 0, need(in_float64));
    }
};

// What a call holds of the workspace.
struct Pieces {
    Findings* findings;
    float* pivots_float32;   // [2, neurons]
    double* pivots_float64;  // [2, neurons]
    double* sums;            // [5 + 2 * draws + shifts, neurons]
    double* pair_sums;
    double* rotated_sums;
    double* shifted_sums;
    std::byte* buffers;
    double* draw_rows;
};

// take(piece, count) of all pieces, in order: to measure them, and to have them.
template <class Take>
void for_pieces(const Batch& batch, int64_t draws, const Shifts& shifts, const Divisions& divisions, const Take& take) {
    const int64_t n = batch.neurons;
    take(&Pieces::findings, 1);
    take(&Pieces::pivots_float32, 2 * n);
    take(&Pieces::pivots_float64, 2 * n);
    take(&Pieces::sums, (kRotated + 2 * draws + shifts.count) * n);
    take(&Pieces::pair_sums, divisions.most([](const Division& d) { return d.pair_values(); }) * n);
    take(&Pieces::rotated_sums, divisions.most([](const Division& d) { return d.rotated_values(); }) * n);
    take(&Pieces::shifted_sums, divisions.most([](const Division& d) { return d.shifted_parts; }) * shifts.count * n);
    take(&Pieces::buffers, divisions.most([](const Division& d) { return d.buffer_bytes(); }));
    take(&Pieces::draw_rows, divisions.draws.rows.buffers);
}

class PairedUpdate {
 public:
    PairedUpdate(const PairedUpdateParams& params, const Batch& batch, const Stream& stream)
        : p_(params),
          batch_(batch),
          stream_(stream),
          divisions_(batch, params.signs.draws, params.shifts, stream.device) {
        Workspace workspace(params.workspace, params.workspace_size);
        for_pieces(batch, params.signs.draws, params.shifts, divisions_,
                   [&]<class T>(T* Pieces::* piece, int64_t count) { pieces_.*piece = workspace.take<T>(count); });
        if (divisions_.draws.rows.buffers) room_.buffers = pieces_.draw_rows;
    }

    void run() const {
        take_pivots(batch_, pieces_.findings, pieces_.pivots_float32, pieces_.pivots_float64, stream_);
        if (divisions_.in_float32) sum(*divisions_.in_float32, false);
        sum(divisions_.in_float64, true);
        merge_moments(
            {batch_, pieces_.sums, p_.before, p_.after, pieces_.findings, p_.signs, p_.shifts, room_, p_.first_token},
            divisions_.draws, stream_);
    }

 private:
    // In float64, of a batch of another dtype, only where float32 did not hold it.
    bool only_redo(bool in_float64) const { return in_float64 && divisions_.in_float32; }

    void sum(const Division& division, bool in_float64) const {
        const void* pivots = in_float64 ? static_cast<const void*>(pieces_.pivots_float64) : pieces_.pivots_float32;
        const SumParams pairs = {
            batch_, pivots, pieces_.pair_sums, division.pair_parts, pieces_.findings, only_redo(in_float64)};
        if (!division.first.pairs) sum_pairs(pairs, in_float64, stream_);
        if (p_.signs.draws > 0) sum_draws(division, pairs, in_float64);
        if (p_.shifts.count > 0) sum_shifts(division, pairs, in_float64);
        add(pairs, kPairRows, 1, 0);
        lift_moments({pieces_.sums, pieces_.pivots_float64, p_.signs, p_.shifts, pieces_.findings, room_,
                      pairs.only_redo, !in_float64},
                     divisions_.draws, stream_);
    }

    void sum_draws(const Division& division, const SumParams& pairs, bool in_float64) const {
        SumParams sums = pairs;
        sums.sums = pieces_.rotated_sums;
        const auto some = [&](const RotatedLayout& layout, int64_t first, int64_t draws, double* pair_sums) {
            sums.parts = layout.parts;
            sum_rotated({sums, pair_sums, p_.signs, first, layout, layout.buffers ? pieces_.buffers : nullptr}, draws,
                        in_float64, stream_);
            add(sums, kRotatedRows, draws, kRotated + 2 * first);
            sums.sums += draws * layout.parts * kRotatedRows * batch_.neurons;
        };
        some(division.first, 0, 1, division.first.pairs ? pieces_.pair_sums : nullptr);
        if (division.other_draws > 0) some(division.others, 1, division.other_draws, nullptr);
    }

    void sum_shifts(const Division& division, const SumParams& pairs, bool in_float64) const {
        SumParams sums = pairs;
        sums.sums = pieces_.shifted_sums;
        sums.parts = division.shifted_parts;
        sum_shifted(sums, p_.shifts, in_float64, stream_);
        add(sums, static_cast<int>(p_.shifts.count), 1, kRotated + 2 * p_.signs.draws);
    }

    // The parts of some sums, into the rows from first_row on.
    void add(const SumParams& sums, int rows, int64_t sets, int64_t first_row) const {
        add_parts({sums.sums, sums.parts, rows, batch_.neurons, pieces_.sums + first_row * batch_.neurons,
                   pieces_.findings, sums.only_redo},
                  sets, stream_);
    }

    const PairedUpdateParams& p_;
    const Batch& batch_;
    const Stream& stream_;
    const Divisions divisions_;
    Pieces pieces_ = {};
    RowRoom<double> room_ = {};
};

Batch make_batch(const Matrix& a, const Matrix& b, const uint8_t* keep) {
    return {a.data, b.data, a.row_stride, b.row_stride, a.dtype, keep, a.rows, a.columns};
}

void check(const Matrix& a, const Matrix& b, const Signs& signs, const Shifts& shifts) {
    if (a.rows < 1 || a.columns < 1 || signs.draws < 0) {
        throw std::invalid_argument("paired_update: tokens and neurons must be at least 1");
    }
    if (a.columns >= 1 << kNeuronBits) throw std::invalid_argument("paired_update: more than 2^24 neurons");
    if (a.rows != b.rows || a.columns != b.columns || a.dtype != b.dtype) {
        throw std::invalid_argument("paired_update: a and b must have one shape and dtype");
    }
    if (!valid_counts(shifts) || shifts.count > kMostShifts) {
        throw std::invalid_argument("paired_update: shifts must have 1 or 5 lags, and be at most 65535");
    }
}

}  // namespace

int64_t paired_update_workspace(const Matrix& a, const Matrix& b, int64_t draws, const Shifts& shifts, int device) {
    check(a, b, {nullptr, draws}, shifts);
    const OnDevice on(device);
    const Batch batch = make_batch(a, b, nullptr);
    int64_t size = 0;
    for_pieces(batch, draws, shifts, Divisions(batch, draws, shifts, device),
               [&]<class T>(T* Pieces::*, int64_t count) { size += piece<T>(count); });
    return size;
}

void paired_update(const PairedUpdateParams& params, const Stream& stream) {
    check(params.a, params.b, params.signs, params.shifts);
    const OnDevice on(stream.device);
    const Batch batch = make_batch(params.a, params.b, params.keep);
    PairedUpdate(params, batch, stream).run();
}

}  // namespace univfast::cuda
