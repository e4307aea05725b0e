// Matched pairs: their sums, and the tokens of their highest values.
//
// A thread owns neurons of A, and takes their tokens in order, so nothing is merged and the bits do not depend on the
// number of threads.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "highest.h"
#include "kernels.h"
#include "matrix.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Neurons whose float64 sums, with the rows of a run, fit a core's L1.
constexpr int64_t kStrip = 256;
// Tokens that are done with all strips of a thread before the next ones, so that the rows of B, which each strip
// gathers from, stay in a core's L2.
constexpr int64_t kBlockTokens = 128;

// Columns of one layer of B, and where in a strip they go: numbers begin .. end of Plan::columns and Plan::places.
struct Gather {
    const Matrix* layer;
    int64_t begin, end;
};

// Neighbouring neurons of one layer of A, and where their partners are: side by side in one layer of B, or anywhere.
struct Strip {
    int64_t first, width;  // number of the first neuron of all
    const Matrix* a;
    int64_t column_a;
    const Matrix* b;  // null: they are gathered
    int64_t column_b;
    int64_t gathers_begin, gathers_end;
};

struct Plan {
    std::vector<Strip> strips;
    std::vector<Gather> gathers;
    std::vector<int32_t> columns, places;
};

int64_t width_of(const std::vector<Matrix>& layers) {
    int64_t width = 0;
    for (const Matrix& layer : layers) width += layer.columns;
    return width;
}

void plan_partners(const PairDetailsParams& p, Plan& plan, Strip& strip) {
    const int64_t* match = p.match + strip.first;
    strip.gathers_begin = static_cast<int64_t>(plan.gathers.size());
    int64_t start = 0;
    for (const Matrix& layer : p.b) {
        const int64_t end = start + layer.columns;
        Gather found = {&layer, static_cast<int64_t>(plan.columns.size()), 0};
        bool side_by_side = true;
        for (int64_t i = 0; i < strip.width; ++i) {
            side_by_side &= match[i] == match[0] + i && match[i] >= start && match[i] < end;
            if (match[i] < start || match[i] >= end) continue;
            plan.columns.push_back(static_cast<int32_t>(match[i] - start));
            plan.places.push_back(static_cast<int32_t>(i));
        }
        found.end = static_cast<int64_t>(plan.columns.size());
        if (side_by_side) {
            strip.b = &layer;
            strip.column_b = match[0] - start;
        } else if (found.end > found.begin) {
            plan.gathers.push_back(found);
        }
        start = end;
    }
    strip.gathers_end = static_cast<int64_t>(plan.gathers.size());
}

Plan make_plan(const PairDetailsParams& p) {
    Plan plan;
    int64_t number = 0;
    for (const Matrix& layer : p.a) {
        for (int64_t column = 0; column < layer.columns; column += kStrip) {
            Strip strip = {number + column, std::min(kStrip, layer.columns - column), &layer, column, nullptr, 0, 0, 0};
            plan_partners(p, plan, strip);
            plan.strips.push_back(strip);
        }
        number += layer.columns;
    }
    return plan;
}

template <class T>
class StripSums {
 public:
    StripSums(const PairDetailsParams& p, const Plan& plan, const Level& level, const Strip& strip)
        : p_(p), plan_(plan), level_(level), strip_(strip) {
        for (const int side : {0, 1}) {
            pivot_[side] = static_cast<const T*>(p.pivot) + side * neurons() + strip.first;
            scale_[side] = static_cast<const T*>(p.scale) + side * neurons() + strip.first;
        }
    }

    // Takes in the tokens begin .. end of those used, which are of one block.
    void add(int64_t begin, int64_t end, int64_t block) {
        set_floors(p_.first_token + row(begin));
        const DetailsSums<T> sums = {p_.pairs + block * kPairRows * neurons() + strip_.first,
                                     p_.powers + strip_.first,
                                     neurons(),
                                     {highest_[0], highest_[1]}};
        for (int64_t token = begin; token < end; token += kDetailsTokens) {
            const DetailsRun<T> run =
                fetch_run(token, static_cast<int>(std::min<int64_t>(kDetailsTokens, end - token)));
            kernels<T>(level_).details_run(run, strip_.width, sums);
            raise(token, run.tokens, run.a, run.b, 0);
            raise(token, run.tokens, run.b, run.a, 1);
        }
    }

 private:
    int64_t neurons() const { return neurons_; }
    int64_t row(int64_t token) const { return p_.rows ? p_.rows[token] : token; }

    DetailsRun<T> fetch_run(int64_t token, int tokens) {
        DetailsRun<T> run = {{}, {}, tokens, {pivot_[0], pivot_[1]}, {scale_[0], scale_[1]}};
        for (int t = 0; t < tokens; ++t) {
            const int64_t number = row(token + t);
            const int64_t later = row(std::min(token + t + kDetailsTokens, p_.tokens_used - 1));
            prefetch_row(*strip_.a, later, strip_.column_a, strip_.width);
            run.a[t] = copy_row(*strip_.a, number, strip_.column_a, rows_[0][t]);
            if (strip_.b) {
                prefetch_row(*strip_.b, later, strip_.column_b, strip_.width);
                run.b[t] = copy_row(*strip_.b, number, strip_.column_b, rows_[1][t]);
                continue;
            }
            run.b[t] = rows_[1][t];
            for (int64_t i = strip_.gathers_begin; i < strip_.gathers_end; ++i) {
                const Gather& g = plan_.gathers[i];
                kernels<T>(level_).gather(row_at(*g.layer, number, 0), g.layer->dtype, plan_.columns.data() + g.begin,
                                          plan_.places.data() + g.begin, g.end - g.begin, rows_[1][t]);
            }
        }
        return run;
    }

    // Copied even where T is the dtype: rows of many widths share a few sets of the nearest cache.
    const T* copy_row(const Matrix& layer, int64_t row, int64_t column, T* to) {
        kernels<T>(level_).convert(row_at(layer, row, column), layer.dtype, to, strip_.width);
        return to;
    }

    void set_floors(int64_t token) {
        for (const int side : {0, 1}) {
            for (int64_t i = 0; i < strip_.width; ++i) {
                const int64_t last = (strip_.first + i + 1) * p_.count - 1;
                floor_[side][i] = floor_of<T>(p_.top[side].value[last], p_.top[side].token[last], token);
            }
        }
    }

    // The run's values that are among the highest of their neuron go into its list.
    void raise(int64_t token, int tokens, const T* const* values, const T* const* partners, int side) {
        const int64_t count = kernels<T>(level_).above(highest_[side], floor_[side], strip_.width, found_);
        for (int64_t k = 0; k < count; ++k) {
            const int64_t i = found_[k];
            for (int t = 0; t < tokens; ++t) {
                if (!(values[t][i] > floor_[side][i])) continue;
                const int64_t number = p_.first_token + row(token + t);
                insert(side, i, number, static_cast<double>(values[t][i]), static_cast<double>(partners[t][i]));
                const int64_t last = (strip_.first + i + 1) * p_.count - 1;
                floor_[side][i] = floor_of<T>(p_.top[side].value[last], p_.top[side].token[last], number + 1);
            }
        }
    }

    void insert(int side, int64_t i, int64_t token, double value, double partner) {
        const int64_t first = (strip_.first + i) * p_.count;
        double* values = p_.top[side].value + first;
        int64_t* tokens = p_.top[side].token + first;
        const int64_t place = place_of(value, token, values, tokens, p_.count);
        if (place == p_.count) return;
        put(value, place, values, p_.count);
        put(token, place, tokens, p_.count);
        put(partner, place, p_.top[side].partner + first, p_.count);
    }

    const PairDetailsParams& p_;
    const Plan& plan_;
    const Level& level_;
    const Strip& strip_;
    const int64_t neurons_ = width_of(p_.a);
    const T* pivot_[2];
    const T* scale_[2];
    T rows_[2][kDetailsTokens][kStrip];  // of A and of B, where they are converted or gathered
    T highest_[2][kStrip];
    T floor_[2][kStrip];
    int32_t found_[kStrip];
};

template <class T>
void add_slab(const PairDetailsParams& p, const Plan& plan, const Level& level, int64_t first, int64_t last) {
    int64_t begin = 0;
    for (int64_t block = 0; block < p.blocks; ++block) {
        while (begin < p.ends[block]) {
            const int64_t end = std::min(begin + kBlockTokens, p.ends[block]);
            for (int64_t i = first; i < last; ++i) {
                StripSums<T>(p, plan, level, plan.strips[i]).add(begin, end, block);
            }
            begin = end;
        }
    }
}

void check_layers(const PairDetailsParams& p, const std::vector<Matrix>& layers) {
    if (layers.empty()) throw std::invalid_argument("pair_details: at least one layer of a and of b is needed");
    for (const Matrix& layer : layers) {
        if (layer.columns < 1) throw std::invalid_argument("pair_details: layers must have neurons");
        if (layer.dtype == DType::float64 && p.dtype != DType::float64) {
            throw std::invalid_argument("pair_details: float64 is summed in float64");
        }
        const int64_t last = p.tokens_used == 0 ? -1 : (p.rows ? p.rows[p.tokens_used - 1] : p.tokens_used - 1);
        if (last >= layer.rows) throw std::invalid_argument("pair_details: more tokens than a layer has rows");
    }
}

void check(const PairDetailsParams& p) {
    if (p.threads < 1 || p.count < 1 || p.tokens_used < 0 || p.blocks < 0) {
        throw std::invalid_argument("pair_details: threads and contexts must be at least 1");
    }
    if (p.dtype != DType::float32 && p.dtype != DType::float64) {
        throw std::invalid_argument("pair_details: sums are taken in float32 or float64");
    }
    check_layers(p, p.a);
    check_layers(p, p.b);
    for (int64_t t = 0; p.rows && t < p.tokens_used; ++t) {
        if (p.rows[t] < (t == 0 ? 0 : p.rows[t - 1] + 1)) throw std::invalid_argument("rows: must increase from 0 on");
    }
    for (int64_t i = 0; i < p.blocks; ++i) {
        if (p.ends[i] < (i == 0 ? 0 : p.ends[i - 1]) || p.ends[i] > p.tokens_used) {
            throw std::invalid_argument("ends: must not decrease, nor pass the tokens used");
        }
    }
    const int64_t neurons = width_of(p.a), partners = width_of(p.b);
    if (std::any_of(p.match, p.match + neurons, [&](int64_t m) { return m < 0 || m >= partners; })) {
        throw std::invalid_argument("match: not a neuron of b");
    }
}

}  // namespace
}  // namespace cpu

void pair_details(const PairDetailsParams& params) {
    using namespace cpu;
    check(params);
    const Level& level = active_level();
    const Plan plan = make_plan(params);
    const int64_t strips = static_cast<int64_t>(plan.strips.size());
    const int threads = useful_threads(params.threads, strips, params.tokens_used * width_of(params.a));
    parallel_for(threads, threads, [&](int64_t slab, int) {
        const int64_t first = slab * strips / threads, last = (slab + 1) * strips / threads;
        if (params.dtype == DType::float64) {
            add_slab<double>(params, plan, level, first, last);
        } else {
            add_slab<float>(params, plan, level, first, last);
        }
    });
}

}  // namespace univfast
