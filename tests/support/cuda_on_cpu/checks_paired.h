// A state of paired moments that takes batches in, and what it must hold: two passes over all tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "checks.h"

namespace checks {

using univfast::cuda::Counters;

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

enum Rows { kMeanA, kMeanB, kM2A, kM2B, kCoAB, kPairRows };

// Leads and lags by number, below the number of neurons.
class WrongPartners {
 public:
    WrongPartners(int64_t neurons, std::vector<int64_t> leads, std::vector<int64_t> lags, int64_t count)
        : neurons_(neurons), leads_(leads), lags_(lags), count_(count), memories_{{"leads", leads}, {"lags", lags}} {}

    univfast::Shifts shifts() const {
        return {memories_[0].data(), memories_[1].data(), count_, static_cast<int64_t>(lags_.size())};
    }
    int64_t shift(int64_t d) const {
        const auto lags = lags_.size(), i = static_cast<size_t>(d);
        return (leads_[i / lags] + lags_[i % lags]) % neurons_;
    }

 private:
    int64_t neurons_;
    std::vector<int64_t> leads_, lags_;
    int64_t count_;
    Memory<int64_t> memories_[2];
};

// A state [5 + 2 * draws + shifts, neurons] that takes batches in, each into new memory.
class State {
 public:
    State(int64_t neurons, const Rotations& rotations, const WrongPartners& wrong)
        : neurons_(neurons), rotations_(rotations), wrong_(wrong), moments_(static_cast<size_t>(rows() * neurons), 0) {}

    void update(const Matrix& a, const Matrix& b, const uint8_t* keep = nullptr, int64_t first_token = 0) {
        const univfast::Signs signs = rotations_.signs();
        const univfast::Shifts shifts = wrong_.shifts();
        const int64_t size = univfast::cuda::paired_update_workspace(a, b, signs.draws, shifts, 0);
        Workspace workspace(size);
        Memory<double> before("before", moments_);
        Memory<double> after("after", std::vector<double>(moments_.size(), kNaN));
        Memory<Counters> counters("counters", {counters_}), counters_after("counters", {Counters{}});
        univfast::cuda::paired_update({a,
                                       b,
                                       keep,
                                       first_token,
                                       signs,
                                       shifts,
                                       {before.data(), counters.data()},
                                       {after.data(), counters_after.data()},
                                       workspace.data(),
                                       size},
                                      kStream);
        moments_ = after.computed();
        counters_ = counters_after.computed()[0];
    }

    int64_t first_shift() const { return kPairRows + 2 * rotations_.signs().draws; }
    int64_t rows() const { return first_shift() + wrong_.shifts().count; }
    const std::vector<double>& moments() const { return moments_; }
    const Counters& counters() const { return counters_; }
    std::vector<double> row(int64_t i) const {
        return {moments_.begin() + i * neurons_, moments_.begin() + (i + 1) * neurons_};
    }

 private:
    int64_t neurons_;
    const Rotations& rotations_;
    const WrongPartners& wrong_;
    std::vector<double> moments_;
    Counters counters_ = {0, -1, 0, 0, 0.0};
};

// ---- the answer -----------------------------------------------------------------------------------------

// Values of some tokens [tokens][neurons].
using Tokens = std::vector<std::vector<double>>;

struct Answer {
    std::vector<double> mean_x, mean_y, m2_x, m2_y, r;
};

inline std::vector<double> correlations(const std::vector<double>& c, const std::vector<double>& m2_x,
                                        const std::vector<double>& m2_y) {
    std::vector<double> r(c.size());
    for (size_t i = 0; i < c.size(); ++i) {
        r[i] = m2_x[i] > 0 && m2_y[i] > 0 ? c[i] / std::sqrt(m2_x[i]) / std::sqrt(m2_y[i]) : kNaN;
    }
    return r;
}

inline Answer answer(const Tokens& x, const Tokens& y) {
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
inline void expect_moments(const std::vector<double>& mean, const std::vector<double>& m2,
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

// Tokens whose neuron i is the other's i + shift, counted round.
inline Tokens moved(const Tokens& tokens, int64_t shift) {
    Tokens all = tokens;
    for (std::vector<double>& token : all) std::rotate(token.begin(), token.begin() + shift, token.end());
    return all;
}

inline void expect_shifted(const State& state, const Tokens& a, const Tokens& b, const WrongPartners& wrong,
                           double limit, const std::string& what) {
    for (int64_t d = 0; d < wrong.shifts().count; ++d) {
        const int64_t shift = wrong.shift(d);
        std::vector<double> m2 = state.row(kM2B);
        std::rotate(m2.begin(), m2.begin() + shift, m2.end());
        expect_near(correlations(state.row(state.first_shift() + d), state.row(kM2A), m2), answer(a, moved(b, shift)).r,
                    limit, what + ": shift " + std::to_string(d));
    }
}

inline void expect_state(const State& state, const Tokens& a, const Tokens& b, const Rotations& rotations,
                         const WrongPartners& wrong, double limit, const std::string& what) {
    expect_shifted(state, a, b, wrong, limit, what);
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

}  // namespace checks
