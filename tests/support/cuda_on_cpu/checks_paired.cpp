// Paired moments: the state after some batches, against two passes over all tokens.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <device_primitives.cuh>
#include <limits>
#include <stdexcept>

#include "../../../csrc/cuda/launch.h"
#include "../../../csrc/cuda/paired.h"
#include "checks.h"

namespace checks {
namespace {

using univfast::cuda::Counters;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

enum Rows { kMeanA, kMeanB, kM2A, kM2B, kCoAB, kPairRows };

// A state [5 + 2 * draws, neurons] that takes batches in, each into new memory.
class State {
 public:
    State(int64_t neurons, const Rotations& rotations)
        : neurons_(neurons), rotations_(rotations), moments_(static_cast<size_t>(rows() * neurons), 0) {}

    void update(const Matrix& a, const Matrix& b, const uint8_t* keep = nullptr, int64_t first_token = 0) {
        const univfast::Signs signs = rotations_.signs();
        const int64_t size = univfast::cuda::paired_update_workspace(a, b, signs.draws, 0);
        Workspace workspace(size);
        Memory<double> before("before", moments_);
        Memory<double> after("after", std::vector<double>(moments_.size(), kNaN));
        Memory<Counters> counters("counters", {counters_}), counters_after("counters", {Counters{}});
        univfast::cuda::paired_update({a,
                                       b,
                                       keep,
                                       first_token,
                                       signs,
                                       {before.data(), counters.data()},
                                       {after.data(), counters_after.data()},
                                       workspace.data(),
                                       size},
                                      kStream);
        moments_ = after.computed();
        counters_ = counters_after.computed()[0];
    }

    int64_t rows() const { return kPairRows + 2 * rotations_.signs().draws; }
    const std::vector<double>& moments() const { return moments_; }
    const Counters& counters() const { return counters_; }
    std::vector<double> row(int64_t i) const {
        return {moments_.begin() + i * neurons_, moments_.begin() + (i + 1) * neurons_};
    }

 private:
    int64_t neurons_;
    const Rotations& rotations_;
    std::vector<double> moments_;
    Counters counters_ = {0, -1, 0, 0, 0.0};
};

// ---- the answer -----------------------------------------------------------------------------------------

// Values of some tokens [tokens][neurons].
using Tokens = std::vector<std::vector<double>>;

struct Answer {
    std::vector<double> mean_x, mean_y, m2_x, m2_y, r;
};

std::vector<double> correlations(const std::vector<double>& c, const std::vector<double>& m2_x,
                                 const std::vector<double>& m2_y) {
    std::vector<double> r(c.size());
    for (size_t i = 0; i < c.size(); ++i) {
        r[i] = m2_x[i] > 0 && m2_y[i] > 0 ? c[i] / std::sqrt(m2_x[i]) / std::sqrt(m2_y[i]) : kNaN;
    }
    return r;
}

Answer answer(const Tokens& x, const Tokens& y) {
    const size_t neurons = x[0].size();
    const std::vector<double> zeros(neurons, 0);
    Answer all = {zeros, zeros, zeros, zeros, zeros};
    std::vector<double> c(neurons, 0);
    const double tokens = static_cast<double>(x.size());
    for (size_t i = 0; i < neurons; ++i) {
        // About the first token, so that the means of equal values are exact.
        for (size_t t = 0; t < x.size(); ++t) {
            all.mean_x[i] += x[t][i] - x[0][i];
            all.mean_y[i] += y[t][i] - y[0][i];
        }
        all.mean_x[i] = x[0][i] + all.mean_x[i] / tokens;
        all.mean_y[i] = y[0][i] + all.mean_y[i] / tokens;
        for (size_t t = 0; t < x.size(); ++t) {
            const double own_x = x[t][i] - all.mean_x[i], own_y = y[t][i] - all.mean_y[i];
            all.m2_x[i] += own_x * own_x;
            all.m2_y[i] += own_y * own_y;
            c[i] += own_x * own_y;
        }
    }
    all.r = correlations(c, all.m2_x, all.m2_y);
    return all;
}

// Of means in units of the standard deviation, and of second moments in units of themselves.
void expect_moments(const std::vector<double>& mean, const std::vector<double>& m2,
                    const std::vector<double>& true_mean, const std::vector<double>& true_m2, int64_t tokens,
                    double limit, const std::string& what) {
    std::vector<double> mean_error(m2.size()), m2_error(m2.size());
    for (size_t i = 0; i < m2.size(); ++i) {
        const double sd = std::sqrt(true_m2[i] / static_cast<double>(tokens));
        mean_error[i] = sd > 0 ? (mean[i] - true_mean[i]) / sd : mean[i] - true_mean[i];
        m2_error[i] = true_m2[i] > 0 ? m2[i] / true_m2[i] - 1 : m2[i];
    }
    const std::vector<double> zeros(m2.size(), 0);
    expect_near(mean_error, zeros, limit, what + ": mean");
    expect_near(m2_error, zeros, limit, what + ": second moment");
}

void expect_state(const State& state, const Tokens& a, const Tokens& b, const Rotations& rotations, double limit,
                  const std::string& what) {
    const int64_t tokens = static_cast<int64_t>(a.size());
    expect(state.counters().tokens == tokens && state.counters().bad_token == -1, what + ": counters");
    const Answer pairs = answer(a, b);
    expect_moments(state.row(kMeanA), state.row(kM2A), pairs.mean_x, pairs.m2_x, tokens, 4 * limit, what + ": a");
    expect_moments(state.row(kMeanB), state.row(kM2B), pairs.mean_y, pairs.m2_y, tokens, 4 * limit, what + ": b");
    expect_near(correlations(state.row(kCoAB), state.row(kM2A), state.row(kM2B)), pairs.r, limit, what + ": r");

    Tokens first;  // of the distance from the first token, so that large means do not cost digits
    for (const std::vector<double>& token : b) {
        std::vector<double> y(token);
        for (size_t i = 0; i < y.size(); ++i) y[i] -= b[0][i];
        first.push_back(rotations.first(y));
    }
    for (int64_t draw = 0; draw < rotations.signs().draws; ++draw) {
        Tokens turned;
        for (const std::vector<double>& token : first) turned.push_back(rotations.last(draw, token));
        const Answer rotated = answer(a, turned);
        const std::string which = what + ": draw " + std::to_string(draw);
        const std::vector<double> m2 = state.row(kPairRows + 2 * draw), zeros(m2.size(), 0);
        expect_moments(zeros, m2, zeros, rotated.m2_y, tokens, 4 * limit, which);
        expect_near(correlations(state.row(kPairRows + 2 * draw + 1), state.row(kM2A), m2), rotated.r, limit,
                    which + ": r");
    }
}

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

void check_case(const Case& c) {
    std::string what = "paired " + std::to_string(c.neurons) + " neurons, " + name_of(c.dtype) + ", layouts " +
                       std::to_string(static_cast<int>(c.layout_a)) + std::to_string(static_cast<int>(c.layout_b)) +
                       (c.masked ? ", masked" : "") + ", " + std::to_string(c.batches.size()) + " batches of " +
                       std::to_string(c.batches[0]);
    const Rotations rotations(c.neurons, c.draws, static_cast<uint64_t>(c.neurons));
    State state(c.neurons, rotations);
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
    expect_state(state, all_a, all_b, rotations, c.dtype == DType::float64 ? 1e-12 : 1e-6, what);
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
    State state(kNeurons, rotations);
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
    const Input a("a", DType::float32, 4, 8, std::vector<double>(32, 1), Layout::plain);
    const Matrix matrix = a.matrix();
    Matrix other = matrix;
    const auto update = [&](int64_t size, int64_t offset) {
        Memory<double> moments("before", std::vector<double>(56, 0)), after("after", std::vector<double>(56, 0));
        Memory<Counters> counters("counters", {Counters{}}), counters_after("counters", {Counters{}});
        Workspace workspace(size + offset);
        univfast::cuda::paired_update({matrix,
                                       other,
                                       nullptr,
                                       0,
                                       rotations.signs(),
                                       {moments.data(), counters.data()},
                                       {after.data(), counters_after.data()},
                                       workspace.data() + offset,
                                       size},
                                      kStream);
    };
    const auto refused = [&](int64_t size, int64_t offset) {
        return throws<std::invalid_argument>([&] { update(size, offset); });
    };
    const int64_t size = univfast::cuda::paired_update_workspace(matrix, matrix, 1, 0);
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
}

}  // namespace

void check_paired() {
    check_cases();
    check_bad_values();
    check_launches();
    check_arguments();
}

}  // namespace checks
