// The passes of a structured rotation on a device.
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <stdexcept>
#include <vector>

namespace univfast::cuda {
namespace {

constexpr int kGroupBits = 4;
static_assert(kGroup == 1 << kGroupBits);

int log2_of(int64_t power) { return 63 - __builtin_clzll(static_cast<uint64_t>(power)); }

// The first pass has the longest strides. None of them is shorter than a group that was dealt.
int first_stages(int bits, int most) { return bits <= most ? bits : std::min(most, bits - kGroupBits); }

int next_stages(int bits, int most) { return bits <= most ? bits : std::min(most, (bits + 1) / 2); }

// A stretch of a row, in blocks of 2^bits times 2^unit neurons.
struct Stretch {
    int first, count, bits, unit;
    double scale;
};

class Builder {
 public:
    Builder(Plan& plan, int lanes, int most_stages) : plan_(plan), lanes_(lanes), most_stages_(most_stages) {}

    // All stages of some stretches side by side.
    void add(std::initializer_list<Stretch> stretches, Input input, int round, int signs) {
        for (bool first = true; add_pass(stretches, first, input, round, signs); first = false) {
        }
        done_.clear();
    }

 private:
    bool add_pass(std::initializer_list<Stretch> stretches, bool first, Input input, int round, int signs) {
        bool any = false;
        done_.resize(stretches.size());
        size_t index = 0;
        for (const Stretch& s : stretches) {
            int& done = done_[index++];
            const int left = s.bits - done;
            if (s.count == 0 || (!first && left == 0)) continue;
            const int stages = first ? first_stages(left, most_stages_) : next_stages(left, most_stages_);
            done += stages;
            if (plan_.count == kMostPasses) throw std::logic_error("rotation: too many passes");
            plan_.passes[plan_.count++] = {
                stages, s.unit + s.bits - done, s.first,          s.count, first ? input : Input::same,
                round,  first ? signs : -1,     plan_.sign_words, s.scale, false};
            const int groups = ((s.count >> stages) + lanes_ - 1) / lanes_;
            if (first) plan_.sign_words += ((groups << stages) + 31) / 32;
            any = true;
        }
        if (any) plan_.passes[plan_.count - 1].barrier = true;
        return any;
    }

    Plan& plan_;
    int lanes_;
    int most_stages_;
    std::vector<int> done_;  // stages, of each stretch
};

double inverse_root(int64_t n) { return 1 / std::sqrt(static_cast<double>(n)); }

Plan make_plan(int64_t neurons, int lanes, int most_stages) {
    const RotationPlan shape = rotation_plan(neurons);
    const int64_t groups = neurons / shape.group;
    if (groups * neurons > int64_t{UINT32_MAX}) {
        throw std::invalid_argument("neurons: too many for a structured rotation on a device");
    }
    const bool across = shape.remainder > 0;
    Plan plan = {};
    plan.neurons = static_cast<int>(neurons);
    plan.group_bits = log2_of(shape.group);
    plan.stride = static_cast<uint32_t>(shape.stride);
    plan.turn = static_cast<int>(shape.turn);
    plan.middle_round = shape.middle_round;
    const int block = static_cast<int>(shape.block), window = static_cast<int>(shape.window);
    const int block_bits = log2_of(block), window_bits = log2_of(window);
    Builder builder(plan, lanes, most_stages);
    for (int round = 0; round <= kCommonRounds; ++round) {
        if (round == 1 && !shape.middle_round) continue;
        const Input input = round == 0 ? Input::row : Input::dealt;
        if (across) {  // each transform is orthonormal
            builder.add({{0, window, window_bits, 0, inverse_root(window)},
                         {window, plan.neurons - window, block_bits, 0, inverse_root(block)}},
                        input, round, 0);
            builder.add({{static_cast<int>(shape.remainder), window, window_bits - block_bits, block_bits,
                          inverse_root(window / block)}},
                        Input::same, round, 1);
        } else {  // the first round takes the scale of the last, which is exact
            const double scale = round == 0 ? 1.0 / block : (round == 1 ? inverse_root(block) : 1.0);
            builder.add({{0, plan.neurons, block_bits, 0, scale}}, input, round, 0);
        }
        if (round < kCommonRounds) plan.common = plan.count;
    }
    return plan;
}

}  // namespace

template <>
Plan device_plan<float>(int64_t neurons, int lanes) {
    return make_plan(neurons, lanes, kMostStages<float>);
}

template <>
Plan device_plan<double>(int64_t neurons, int lanes) {
    return make_plan(neurons, lanes, kMostStages<double>);
}

}  // namespace univfast::cuda
