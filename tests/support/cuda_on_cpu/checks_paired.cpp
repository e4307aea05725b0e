// Paired moments: the state after some batches, against two passes over all tokens.
#include "checks_paired.h"

#include <algorithm>
#include <cstring>
#include <device_primitives.cuh>
#include <stdexcept>

#include "../../../csrc/cuda/launch.h"
#include "../../../csrc/cuda/paired.h"

namespace checks {
namespace {

// ---- cases ----------------------------------------------------------------------------------------------

struct Case {
    int64_t neurons;
    std::vector<int64_t> batches;  // tokens of each
    DType dtype = DType::float32;
    int64_t draws = 2;
    Layout layout_a = Layout::plain, layout_b = Layout::plain;
    bool masked = false;
    double offset = 0, scale = 1, jump = 0;  // in standard deviations, all, and from the middle on in them
    double tall = 1;                         // scale of one neuron of b
    int64_t shifts = 7;
};

// r runs from -1 to 1 over the neurons, and neurons of b share a factor, so that rotations of b correlate with a too.
void make_values(const Case& c, int64_t tokens, int64_t batch, std::vector<double>& a, std::vector<double>& b) {
    Random random(static_cast<uint64_t>(c.neurons * 1000 + batch));
    a.clear(), b.clear();
    for (int64_t t = 0; t < tokens; ++t) {
        const double factor = random.uniform(), moved = c.offset + (2 * t >= tokens ? c.jump : 0);
        for (int64_t i = 0; i < c.neurons; ++i) {
            const double rho =
                c.neurons == 1 ? 0.5 : 2 * static_cast<double>(i) / static_cast<double>(c.neurons - 1) - 1;
            const double x = factor / 2 + random.uniform(), y = rho * x + std::sqrt(1 - rho * rho) * random.uniform();
            a.push_back((x + moved) * c.scale);
            b.push_back((y - moved) * c.scale * (i == c.neurons / 2 ? c.tall : 1));
        }
    }
}

// As many shifts as the case has: leads of five lags, or of none where a layer is narrow.
WrongPartners make_wrong(const Case& c) {
    std::vector<int64_t> leads, lags = {0};
    if (c.shifts >= 5 && c.neurons > 20) lags = {1, c.neurons - 1, 4, c.neurons / 2, c.neurons / 3};
    const int64_t each = static_cast<int64_t>(lags.size());
    for (int64_t u = 0; u * each < c.shifts; ++u) leads.push_back((7 * u + (each == 1)) % c.neurons);
    return {c.neurons, leads, lags, c.shifts};
}

void check_case(const Case& c) {
    std::string what = "paired " + std::to_string(c.neurons) + " neurons, " + name_of(c.dtype) + ", layouts " +
                       std::to_string(static_cast<int>(c.layout_a)) + std::to_string(static_cast<int>(c.layout_b)) +
                       (c.masked ? ", masked" : "") + ", " + std::to_string(c.batches.size()) + " batches of " +
                       std::to_string(c.batches[0]);
    const Rotations rotations(c.neurons, c.draws, static_cast<uint64_t>(c.neurons));
    const WrongPartners wrong = make_wrong(c);
    State state(c.neurons, rotations, wrong);
    Tokens all_a, all_b;
    std::vector<double> values_a, values_b;
    for (int64_t tokens : c.batches) {
        make_values(c, tokens, static_cast<int64_t>(all_a.size()), values_a, values_b);
        std::vector<uint8_t> kept;
        for (int64_t t = 0; t < tokens; ++t) {
            kept.push_back(c.masked && t % 3 == 1 ? 0 : static_cast<uint8_t>(1 + t % 255));
            if (kept.back()) continue;
            std::fill_n(values_a.begin() + t * c.neurons, c.neurons, 1e9);  // nobody's business
            std::fill_n(values_b.begin() + t * c.neurons, c.neurons, t % 2 ? kNaN : kInfinity);
        }
        const Input a("a", c.dtype, tokens, c.neurons, values_a, c.layout_a);
        const Input b("b", c.dtype, tokens, c.neurons, values_b, c.layout_b);
        Memory<uint8_t> keep("keep", kept);
        state.update(a.matrix(), b.matrix(), c.masked ? keep.data() : nullptr);
        for (int64_t t = 0; t < tokens; ++t) {
            if (!kept[static_cast<size_t>(t)]) continue;
            all_a.push_back(a.row(t));
            all_b.push_back(b.row(t));
        }
    }
    expect_state(state, all_a, all_b, rotations, wrong, c.dtype == DType::float64 ? 1e-12 : 1e-6, what);
}

void check_cases() {
    const DType float64 = DType::float64, float32 = DType::float32, float16 = DType::float16;
    const DType bfloat16 = DType::bfloat16;
    // More tokens than a block has side by side, in narrow layers; in wider ones more than float32 holds.
    for (const Case& c : std::initializer_list<Case>{
             {1, {600}},
             {7, {600}},
             {16, {300}},
             {33, {300}},
             {48, {300}},
             {64, {300}},
             {96, {150}, float16},
             {257, {80}, bfloat16},
             {512, {60}},
             {1024, {130}, float16, 1},
             {1344, {20}},
             {3072, {12}, bfloat16, 1},
             {3080, {9}, float32, 1, Layout::unaligned},
             {1, {90}, float64},
             {64, {90}, float64, 3},
             {257, {20}, float64},
             {1344, {9}, float64, 1},
             {64, {200, 1, 70}, float64},
             {48, {200, 1, 70}, float32, 3},
             {96, {150, 40}, bfloat16, 1, Layout::plain, Layout::plain, true},
             {33, {50}, float64, 1, Layout::plain, Layout::plain, true},
             {64, {70}, float32, 0},
             {64, {70}, float16, 1, Layout::gaps, Layout::backwards},
             {64, {70}, float32, 1, Layout::backwards, Layout::gaps},
             {64, {70}, float64, 1, Layout::backwards, Layout::unaligned},
             {64, {70}, float32, 1, Layout::unaligned, Layout::plain},
             {64, {70}, bfloat16, 1, Layout::plain, Layout::unaligned},
             {64, {70}, float32, 1, Layout::repeated, Layout::plain},
             {64, {70}, float16, 1, Layout::plain, Layout::repeated},
             {96, {70, 70}, float32, 1, Layout::plain, Layout::plain, false, 1e4},
             {96, {70}, float32, 1, Layout::plain, Layout::plain, false, 0, 1e-20},
             {96, {70}, float32, 1, Layout::plain, Layout::plain, false, 0, 1e25},
             {96, {70}, float32, 1, Layout::plain, Layout::plain, false, 0, 1, 300},
             {96, {70}, float32, 1, Layout::plain, Layout::plain, false, 0, 1, 0, 1e3},
             {96, {70}, float64, 1, Layout::plain, Layout::plain, false, 1e3, 1e-100},
             {200, {90, 40}, float32, 0, Layout::plain, Layout::plain, false, 0, 1, 0, 1, 20},
             {200, {40}, bfloat16, 1, Layout::plain, Layout::plain, true, 0, 1, 0, 1, 23},
             {200, {20}, float64, 0, Layout::gaps, Layout::backwards, false, 0, 1, 0, 1, 4},
             {64, {40}, float32, 1, Layout::plain, Layout::plain, false, 0, 1, 0, 1, 0},
         }) {
        check_case(c);
    }
}

// ---- bad values -----------------------------------------------------------------------------------------

struct Bad {
    int64_t token;
    bool in_b;
    int64_t neuron;
    double value;
};

// The first of `bad` is the one to be reported.
void check_bad(DType dtype, int64_t draws, const std::vector<Bad>& bad) {
    const std::string what = "bad values, " + std::string(name_of(dtype)) + ", " + std::to_string(draws) + " draws";
    constexpr int64_t kTokens = 40, kNeurons = 48, kFirst = 1000;
    const Rotations rotations(kNeurons, draws, 5);
    const WrongPartners wrong(kNeurons, {0, 9}, {1, 2, 30, 31, 47}, 7);
    State state(kNeurons, rotations, wrong);
    Random random(1);
    const auto values = [&] { return random.uniform(kTokens * kNeurons); };
    const auto take = [&](const std::vector<double>& a, const std::vector<double>& b, const uint8_t* keep,
                          int64_t first_token) {
        state.update(Input("a", dtype, kTokens, kNeurons, a, Layout::plain).matrix(),
                     Input("b", dtype, kTokens, kNeurons, b, Layout::plain).matrix(), keep, first_token);
    };
    take(values(), values(), nullptr, 0);
    const std::vector<double> before = state.moments();
    std::vector<double> a = values(), b = values();
    for (const Bad& one : bad) (one.in_b ? b : a)[static_cast<size_t>(one.token * kNeurons + one.neuron)] = one.value;
    take(a, b, nullptr, kFirst);
    const auto same_bits = [&] {
        return std::memcmp(before.data(), state.moments().data(), before.size() * sizeof(double)) == 0;
    };
    const auto reported = [&] {
        const Counters& counters = state.counters();
        const double value = counters.bad_value;
        return counters.bad_token == kFirst + bad[0].token && counters.bad_in_b == bad[0].in_b &&
               counters.bad_neuron == bad[0].neuron &&
               (value == bad[0].value || (std::isnan(value) && std::isnan(bad[0].value)));
    };
    expect(reported(), what + ": the first is reported");
    expect(same_bits() && state.counters().tokens == kTokens, what + ": the batch is left out");

    // Later batches count, and the first report stays.
    b[0] = kNaN;
    take(a, b, nullptr, 2 * kFirst);
    expect(reported() && same_bits(), what + ": of two bad batches the first is reported");
    take(values(), values(), nullptr, 3 * kFirst);
    expect(reported() && !same_bits() && state.counters().tokens == 2 * kTokens, what + ": a good batch after it");

    // A batch without tokens to use leaves the state, whatever it holds.
    const std::vector<double> now = state.moments();
    Memory<uint8_t> none("keep", std::vector<uint8_t>(kTokens, 0));
    take(a, b, none.data(), 4 * kFirst);
    expect(std::memcmp(now.data(), state.moments().data(), now.size() * sizeof(double)) == 0, what + ": no tokens");
    expect(reported() && state.counters().tokens == 2 * kTokens, what + ": the counters after no tokens");
}

void check_bad_values() {
    check_bad(DType::float32, 1, {{5, false, 9, kNaN}, {5, true, 3, kNaN}, {7, false, 0, kInfinity}});
    check_bad(DType::float16, 0, {{0, true, 47, -kInfinity}, {1, false, 2, kNaN}});
    check_bad(DType::bfloat16, 2, {{39, true, 3, kInfinity}, {39, true, 4, kNaN}});
    check_bad(DType::float64, 1, {{20, false, 0, -1e160}, {20, true, 0, kNaN}});
    check_bad(DType::float64, 0, {{20, true, 1, kNaN}, {21, true, 0, kNaN}});
    std::vector<Bad> most;  // so that they would hide behind a pivot that they spoil
    for (int64_t token = 10; token < 40; ++token) most.push_back({token, false, 7, kInfinity});
    check_bad(DType::float32, 1, most);
}

// ---- launches -------------------------------------------------------------------------------------------

// What a device refuses to launch, and the CPU does not.
void check_launches() {
    using namespace univfast::cuda;
    const int64_t most = std::max<int64_t>(most_shared(0), 48 << 10);  // bytes; no device has fewer
    bool all = true;
    for (int64_t neurons = 1; neurons < 40000; neurons += neurons < 4200 ? 1 : 97) {
        for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
            for (const bool in_float64 : {false, true}) {
                if (dtype == DType::float64 && !in_float64) continue;
                const Batch batch = {nullptr, nullptr, neurons, neurons, dtype, nullptr, 1000, neurons};
                const RotatedLayout layout = rotated_layout(batch, in_float64, 1, 0);
                all &= layout.turners % kWarp == 0 && layout.adders % kWarp == 0;
                all &= layout.turners + layout.adders <= kMostRotatedThreads && layout.shared <= most;
            }
        }
    }
    expect(all, "paired: blocks that a device can launch");
}

// ---- arguments ------------------------------------------------------------------------------------------

void check_arguments() {
    const Rotations rotations(8, 1, 0);
    const WrongPartners wrong(8, {1, 5}, {0}, 2);
    const Input a("a", DType::float32, 4, 8, std::vector<double>(32, 1), Layout::plain);
    const Matrix matrix = a.matrix();
    Matrix other = matrix;
    univfast::Shifts shifts = wrong.shifts();
    const auto update = [&](int64_t size, int64_t offset) {
        Memory<double> moments("before", std::vector<double>(72, 0)), after("after", std::vector<double>(72, 0));
        Memory<Counters> counters("counters", {Counters{}}), counters_after("counters", {Counters{}});
        Workspace workspace(size + offset);
        univfast::cuda::paired_update({matrix,
                                       other,
                                       nullptr,
                                       0,
                                       rotations.signs(),
                                       shifts,
                                       {moments.data(), counters.data()},
                                       {after.data(), counters_after.data()},
                                       workspace.data() + offset,
                                       size},
                                      kStream);
    };
    const auto refused = [&](int64_t size, int64_t offset) {
        return throws<std::invalid_argument>([&] { update(size, offset); });
    };
    const int64_t size = univfast::cuda::paired_update_workspace(matrix, matrix, 1, shifts, 0);
    expect(!refused(size, 0), "paired: fitting arguments");
    expect(refused(size - 1, 0), "paired: a workspace that is too small");
    expect(refused(size, 8), "paired: a workspace that is not aligned");
    other.dtype = DType::bfloat16;
    expect(refused(size, 0), "paired: two dtypes");
    other = matrix;
    other.columns = 7;
    expect(refused(size, 0), "paired: two shapes");
    other = matrix;
    other.rows = 3;
    expect(refused(size, 0), "paired: two numbers of tokens");
    other = matrix;
    shifts.lag_count = 6;
    expect(refused(size, 0), "paired: another number of lags");
}

}  // namespace

void check_paired() {
    check_cases();
    check_bad_values();
    check_launches();
    check_arguments();
}

}  // namespace checks
