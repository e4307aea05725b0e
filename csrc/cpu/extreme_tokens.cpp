// The highest and the lowest values of each neuron, and their tokens. A thread owns neurons, so nothing is merged.
#include <algorithm>
#include <stdexcept>

#include "highest.h"
#include "kernels.h"
#include "matrix.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Neurons that one task reads, over all tokens: a row of them, negated too, and what they must exceed stay in a core's
// L1.
constexpr int64_t kStrip = 256;
// Rows ahead of the one in use that are asked for.
constexpr int64_t kAhead = 4;

// The lists of the highest values of a strip, or of the highest of negated values.
class StripLists {
 public:
    StripLists(const ExtremeList& lists, int64_t count, int64_t first, int64_t width, int64_t first_token)
        : values_(lists.value + first * count), tokens_(lists.token + first * count), count_(count), width_(width) {
        for (int64_t i = 0; i < width; ++i) set_floor(i, first_token);
    }

    // Takes in the values of a token, `found` being room for as many numbers.
    void raise(const Kernels<float>& loops, const float* values, int64_t token, int32_t* found) {
        const int64_t beyond = loops.above(values, floor_, width_, found);
        for (int64_t k = 0; k < beyond; ++k) insert(found[k], values[found[k]] + 0.0f, token);  // no -0
    }

 private:
    // All tokens to come are `next` or later.
    void set_floor(int64_t i, int64_t next) {
        const int64_t last = (i + 1) * count_ - 1;
        floor_[i] = floor_of<float>(values_[last], tokens_[last], next);
    }

    void insert(int64_t i, float value, int64_t token) {
        float* values = values_ + i * count_;
        int64_t* tokens = tokens_ + i * count_;
        const int64_t place = place_of(value, token, values, tokens, count_);
        if (place == count_) return;
        put(value, place, values, count_);
        put(token, place, tokens, count_);
        set_floor(i, token + 1);
    }

    float* values_;
    int64_t* tokens_;
    int64_t count_, width_;
    float floor_[kStrip];  // what a value must be above
};

void add_strip(const ExtremeTokensParams& p, const Kernels<float>& loops, const Level& level, int64_t first,
               int64_t width) {
    StripLists high(p.high, p.count, first, width, p.tokens[0]);
    StripLists low(p.low, p.count, first, width, p.tokens[0]);
    float converted[kStrip], negated[kStrip];
    int32_t found[kStrip];
    for (int64_t t = 0; t < p.x.rows; ++t) {
        if (t + kAhead < p.x.rows) prefetch_row(p.x, t + kAhead, first, width);
        const float* values = fetch_row(level, p.x, t, first, width, converted);
        high.raise(loops, values, p.tokens[t], found);
        for (int64_t i = 0; i < width; ++i) negated[i] = -values[i];
        low.raise(loops, negated, p.tokens[t], found);
    }
}

void check(const ExtremeTokensParams& p) {
    if (p.x.columns < 1 || p.count < 1 || p.threads < 1) {
        throw std::invalid_argument("extreme_tokens: neurons, count and threads must be at least 1");
    }
    if (p.x.dtype == DType::float64) throw std::invalid_argument("extreme_tokens: x must not be float64");
    for (int64_t t = 1; t < p.x.rows; ++t) {
        if (p.tokens[t] <= p.tokens[t - 1]) throw std::invalid_argument("tokens: they do not increase");
    }
}

}  // namespace
}  // namespace cpu

void extreme_tokens(const ExtremeTokensParams& params) {
    using namespace cpu;
    check(params);
    if (params.x.rows == 0) return;
    const Level& level = active_level();
    const int64_t neurons = params.x.columns, strips = (neurons + kStrip - 1) / kStrip;
    const int threads = useful_threads(params.threads, strips, params.x.rows * neurons);
    parallel_for(strips, threads, [&](int64_t strip, int) {
        const int64_t first = strip * kStrip;
        add_strip(params, level.float32, level, first, std::min(kStrip, neurons - first));
    });
}

}  // namespace univfast
