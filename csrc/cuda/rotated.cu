// Sums of rotated tokens: of z = R_d (b - pivot) and of its products with a - pivot, for each draw d.
//
// A block takes a part of the tokens and one draw. Some of its threads rotate tokens (transform.cuh), a few side by
// side; the others have 8 neurons each, and add up the tokens rotated before. So a thread has either the values of a
// pass or sums in its registers. A neuron of a token is read twice where b is (the second time from the cache), rotated
// by two rounds, 20 additions of 1,024 neurons, and goes through shared memory about 8 times: with addresses, signs and
// sums about 55 instructions by count, of which a multiprocessor does 128 a clock. At half the rate of a copy an H200
// would have 1.2 neurons of float32 a clock and multiprocessor, 2.3 of bfloat16.
#include <climits>

#include "dtypes.cuh"
#include "launch.h"
#include "paired.h"
#include "transform.cuh"

namespace univfast::cuda {
namespace {

constexpr int kOctet = 8;            // neurons that a thread sums side by side
constexpr int kNeuronsOfALane = 32;  // as many values as a pass holds
// Threads of a block: those that rotate, and those that add.
constexpr int kMostTurners = 448;
constexpr int kTurners = 256, kAdders = 384;     // where an adder holds the sums of one octet
constexpr int kHeldRows = 2;                     // of a team, there
constexpr int64_t kMostHeld = kAdders * kOctet;  // neurons
// Steps of a team, of kHeldRows tokens each, that are summed in float32 before they are added to float64 sums. More
// than on the CPU, because those lie in global memory: 32 tokens cost 4 bytes of its cache a neuron and token.
constexpr int kHeldSteps = 16;
constexpr int kSquareParts = 8;
constexpr int kTurnersBarrier = 1, kBlockBarrier = 2;

// b - pivot of a token, or zeros where the team has no more tokens.
template <class T, class Acc>
struct TokenLoad {
    const T* b;
    const Acc* pivot;
    bool used;

    __device__ Acc operator()(int i) const { return used ? static_cast<Acc>(widened(b[i])) - pivot[i] : Acc(0); }
};

template <class T, class Acc, bool kPairs>
struct OctetSums {
    Acc zz[kOctet], xz[kOctet];
    Acc pairs[kPairs ? kPairRows : 1][kOctet];

    __device__ void clear() {
        for (int i = 0; i < kOctet; ++i) {
            zz[i] = xz[i] = 0;
            if constexpr (kPairs) {
                for (int row = 0; row < kPairRows; ++row) pairs[row][i] = 0;
            }
        }
    }
};

// kCount values from p of which `count` are there; where kWhole, all are, and aligned.
template <bool kWhole, int kCount, class T>
__device__ Values<T, kCount> load_values(const T* p, int count) {
    if constexpr (kWhole) return Values<T, kCount>::load(p);
    Values<T, kCount> loaded = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        if (i < count) loaded.values[i] = p[i];
    }
    return loaded;
}

// Adds neurons first .. first + count of a token, as many at a time as a load gives, which keeps registers free.
template <bool kWhole, class T, class Acc, bool kPairs>
__device__ void add_token(OctetSums<T, Acc, kPairs>& sums, const SumParams& p, int64_t token, const Acc* z, int first,
                          int count) {
    constexpr int kCount = kPerLoad<T>;
    static_assert(kOctet % kCount == 0);
    const Batch& batch = p.batch;
    const T* a = static_cast<const T*>(batch.a) + token * batch.stride_a;
    const T* b = static_cast<const T*>(batch.b) + token * batch.stride_b;
    const Acc* pivots_a = static_cast<const Acc*>(p.pivots);
    const Acc* pivots_b = pivots_a + batch.neurons;
#pragma unroll
    for (int done = 0; done < kOctet; done += kCount) {
        const int at = first + done, left = count - done;
        const auto va = load_values<kWhole, kCount>(a + at, left);
        const auto pivot_a = load_values<kWhole, kCount>(pivots_a + at, left);
        Acc x[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const Acc turned = kWhole || i < left ? z[place(at + i)] : Acc(0);
            x[i] = static_cast<Acc>(va[i]) - pivot_a[i];
            sums.zz[done + i] += turned * turned;
            sums.xz[done + i] += x[i] * turned;
        }
        if constexpr (kPairs) {
            const auto vb = load_values<kWhole, kCount>(b + at, left);
            const auto pivot_b = load_values<kWhole, kCount>(pivots_b + at, left);
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const Acc y = static_cast<Acc>(vb[i]) - pivot_b[i];
                sums.pairs[kSumX][done + i] += x[i];
                sums.pairs[kSumY][done + i] += y;
                sums.pairs[kSumXX][done + i] += x[i] * x[i];
                sums.pairs[kSumYY][done + i] += y * y;
                sums.pairs[kSumXY][done + i] += x[i] * y;
            }
        }
    }
}

// Where a team's float64 sums lie.
struct Totals {
    double* rotated;  // [kRotatedRows, neurons]
    double* pairs;    // [kPairRows, neurons]
    int64_t neurons;

    __device__ void clear(int first, int count, bool with_pairs) const {
        for (int i = first; i < first + count; ++i) {
            for (int row = 0; row < kRotatedRows; ++row) rotated[row * neurons + i] = 0;
            for (int row = 0; with_pairs && row < kPairRows; ++row) pairs[row * neurons + i] = 0;
        }
    }

    template <class T, class Acc, bool kPairs>
    __device__ void add(const OctetSums<T, Acc, kPairs>& sums, int first, int count) const {
#pragma unroll
        for (int i = 0; i < kOctet; ++i) {
            if (i >= count) break;
            rotated[kSumZZ * neurons + first + i] += static_cast<double>(sums.zz[i]);
            rotated[kSumXZ * neurons + first + i] += static_cast<double>(sums.xz[i]);
            if constexpr (kPairs) {
                for (int row = 0; row < kPairRows; ++row) {
                    pairs[row * neurons + first + i] += static_cast<double>(sums.pairs[row][i]);
                }
            }
        }
    }
};

// The shared memory of a block, or the global memory that takes the place of its rows.
template <class Acc>
struct Room {
    float* lane_squares;   // [turners]
    float* row_squares;    // [rows, kSquareParts]
    uint32_t* sign_words;  // [words, lanes]
    Acc* mids;             // [rows, row_size]
    Acc* turned;           // [2, rows, row_size]: one is added while the other is filled

    __device__ Room(const RotatedParams& p, const Plan& plan) {
        const RotatedLayout& layout = p.layout;
        const int rows = layout.teams * layout.rows;
        lane_squares = reinterpret_cast<float*>(shared_memory());
        row_squares = lane_squares + layout.turners;
        sign_words = reinterpret_cast<uint32_t*>(row_squares + rows * kSquareParts);
        if (p.buffers) {
            mids = reinterpret_cast<Acc*>(p.buffers + (blockIdx.y * gridDim.x + blockIdx.x) * layout.buffers);
        } else {
            // Even, so that float64 follows aligned.
            mids = reinterpret_cast<Acc*>(sign_words + (plan.sign_words * layout.lanes + 1) / 2 * 2);
        }
        turned = mids + int64_t{rows} * padded(plan.neurons);
    }
};

struct Tokens {
    int64_t begin, end;
};

__device__ Tokens tokens_of_block(const Batch& batch) {
    return {blockIdx.x * batch.tokens / gridDim.x, (blockIdx.x + 1) * batch.tokens / gridDim.x};
}

template <class Acc>
__device__ auto sign_source(const SignArray& signs, const SignBits& bits) {
    if constexpr (sizeof(Acc) == sizeof(float)) {
        return bits;
    } else {
        return signs;
    }
}

// Rotates the block's tokens, some side by side, and lets the adders have them.
template <class T, class Acc>
__device__ void turn(const RotatedParams& p, const Plan& plan, const Room<Acc>& room) {
    const Batch& batch = p.sums.batch;
    const RotatedLayout& layout = p.layout;
    const int rows = layout.teams * layout.rows, row = threadIdx.x / layout.lanes, row_size = padded(plan.neurons);
    const bool idle = row >= rows;  // the last warp's, that only come to the barriers
    const int lane = threadIdx.x % layout.lanes;
    const Lanes lanes = {idle ? INT_MAX : lane, layout.lanes, kTurnersBarrier, layout.turners};
    const int64_t own = idle ? 0 : row;
    const SignArray array = {p.signs, p.first_draw + blockIdx.y, plan.neurons};
    const SignBits bits = {room.sign_words, lanes};
    if (row == 0 && sizeof(Acc) == sizeof(float)) bits.fill(plan, array);
    lanes.sync();
    const auto signs = sign_source<Acc>(array, bits);
    const Tokens tokens = tokens_of_block(batch);
    float largest = 0;
    int turn = 0;
    for (int64_t first = tokens.begin; first < tokens.end; first += rows, turn ^= 1) {
        const int64_t token = first + own;
        const TokenLoad<T, Acc> load = {static_cast<const T*>(batch.b) + token * batch.stride_b,
                                        static_cast<const Acc*>(p.sums.pivots) + plan.neurons,
                                        token < tokens.end && batch.uses(token)};
        Acc* const mid = room.mids + own * row_size;
        Acc* const z = room.turned + (int64_t{turn} * rows + own) * row_size;
        room.lane_squares[threadIdx.x] = static_cast<float>(rotate_first(plan, load, signs, mid, z, lanes));
        lanes.sync();
        if (lanes.lane < kSquareParts) {
            float sum = 0;
            for (int other = lane; other < layout.lanes; other += kSquareParts) {
                sum += room.lane_squares[threadIdx.x - lane + other];
            }
            room.row_squares[own * kSquareParts + lane] = sum;
        }
        rotate_last(plan, signs, mid, z, lanes);
        if (lanes.lane == 0) {
            float sum = 0;
            for (int i = 0; i < min(kSquareParts, layout.lanes); ++i) sum += room.row_squares[own * kSquareParts + i];
            largest = fmaxf(largest, sum);
        }
        barrier(kBlockBarrier, layout.turners + layout.adders);
    }
    if (lanes.lane == 0) atomicMax(&p.sums.findings->largest_token, __float_as_uint(largest));
}

// Adds what was rotated. kHeld: a thread has one octet, whose sums it holds for kHeldSteps; otherwise it has any
// number, and adds each to the totals at once. kPairs: the pair sums too; all octets are whole and aligned, as the
// registers do not suffice for others.
template <class T, class Acc, bool kPairs, bool kHeld>
__device__ void add(const RotatedParams& p, const Plan& plan, const Room<Acc>& room) {
    const Batch& batch = p.sums.batch;
    const RotatedLayout& layout = p.layout;
    const int neurons = plan.neurons, row_size = padded(neurons), rows = layout.teams * layout.rows;
    const int octets = (neurons + kOctet - 1) / kOctet, threads = kHeld ? octets : layout.adders / layout.teams;
    const int adder = threadIdx.x - layout.turners, team = adder / threads, thread = adder % threads;
    const int part = static_cast<int>(blockIdx.x) * layout.teams + team;
    // Made anew where it is needed, which keeps registers free.
    const auto totals = [&] {
        return Totals{p.sums.sums + (blockIdx.y * layout.parts + part) * kRotatedRows * neurons,
                      kPairs ? p.pair_sums + part * kPairRows * neurons : nullptr, neurons};
    };
    const int first_octet = team < layout.teams ? thread : octets;
    for (int octet = first_octet; octet < octets; octet += threads) {
        totals().clear(octet * kOctet, min(kOctet, neurons - octet * kOctet), kPairs);
    }

    const bool whole = loads_whole<T>(batch.a, batch.stride_a, neurons, kOctet);
    const Tokens tokens = tokens_of_block(batch);
    OctetSums<T, Acc, kPairs> sums;
    sums.clear();
    int step = 0;
    for (int64_t first = tokens.begin; first < tokens.end; first += rows, ++step) {
        barrier(kBlockBarrier, layout.turners + layout.adders);
        const bool done = first + rows >= tokens.end || step % kHeldSteps == kHeldSteps - 1;
#pragma unroll 1
        for (int octet = first_octet; octet < octets; octet += threads) {
            const int neuron = octet * kOctet, count = kPairs ? kOctet : min(kOctet, neurons - neuron);
#pragma unroll 1
            for (int row = team * layout.rows; row < (team + 1) * layout.rows; ++row) {
                if (first + row >= tokens.end || !batch.uses(first + row)) continue;
                const Acc* z = room.turned + (int64_t{step % 2} * rows + row) * row_size;
                if (kPairs || whole) {
                    add_token<true, T>(sums, p.sums, first + row, z, neuron, kOctet);
                } else {
                    add_token<false, T>(sums, p.sums, first + row, z, neuron, count);
                }
            }
            if (!kHeld || done) {
                totals().add(sums, neuron, count);
                sums.clear();
            }
        }
    }
}

template <class T, class Acc, bool kPairs, bool kHeld>
__global__ void __launch_bounds__(kMostRotatedThreads, 1)
    sum_rotated_kernel(const __grid_constant__ RotatedParams p, const __grid_constant__ Plan plan) {
    if (p.sums.only_redo && p.sums.findings->redo == 0) return;
    const Room<Acc> room(p, plan);
    if (static_cast<int>(threadIdx.x) < p.layout.turners) {
        turn<T>(p, plan, room);
    } else {
        add<T, Acc, kPairs, kHeld>(p, plan, room);
    }
}

using Kernel = void (*)(RotatedParams, Plan);

template <class T>
Kernel choose(int64_t neurons, bool in_float64, bool pairs) {
    if constexpr (std::is_same_v<T, double>) {
        return sum_rotated_kernel<T, double, false, false>;
    } else {
        if (in_float64) return sum_rotated_kernel<T, double, false, false>;
        if (neurons > kMostHeld) return sum_rotated_kernel<T, float, false, false>;
        return pairs ? sum_rotated_kernel<T, float, true, true> : sum_rotated_kernel<T, float, false, true>;
    }
}

Kernel choose(const Batch& batch, bool in_float64, bool pairs) {
    return with_dtype(batch.dtype, [&](auto type) {
        return choose<typename decltype(type)::type>(batch.neurons, in_float64, pairs);
    });
}

bool has_whole_octets(const Batch& batch) {
    return with_dtype(batch.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        return loads_whole<T>(batch.a, batch.stride_a, batch.neurons, kOctet) &&
               loads_whole<T>(batch.b, batch.stride_b, batch.neurons, kOctet);
    });
}

Plan plan_for(int64_t neurons, int lanes, bool in_float64) {
    return in_float64 ? device_plan<double>(neurons, lanes) : device_plan<float>(neurons, lanes);
}

}  // namespace

RotatedLayout rotated_layout(const Batch& batch, bool in_float64, int64_t draws, int device) {
    const auto whole_warps = [](int64_t threads) { return static_cast<int>((threads + kWarp - 1) / kWarp * kWarp); };
    const bool held = !in_float64 && batch.neurons <= kMostHeld;
    RotatedLayout layout = {};
    layout.pairs = held && has_whole_octets(batch);
    layout.lanes = static_cast<int>(std::min<int64_t>(kMostTurners, blocks_for(batch.neurons, kNeuronsOfALane)));
    const Plan plan = plan_for(batch.neurons, layout.lanes, in_float64);
    const int64_t row = padded(plan.neurons) * static_cast<int64_t>(in_float64 ? sizeof(double) : sizeof(float));
    const int64_t most = most_shared(device);
    const int octets = static_cast<int>(blocks_for(batch.neurons, kOctet));
    // As many teams, and where sums are not held as many rows, as there are threads and shared memory for.
    layout.rows = held ? kHeldRows : std::max(1, kTurners / layout.lanes);
    layout.teams = held ? std::max(1, std::min(kTurners / (layout.lanes * kHeldRows), kAdders / octets)) : 1;
    for (;;) {
        const int rows = layout.teams * layout.rows;
        layout.turners = whole_warps(layout.lanes * rows);
        layout.adders = held ? whole_warps(octets * layout.teams)
                             : std::min(kMostRotatedThreads - layout.turners, whole_warps(octets));
        layout.buffers = 3 * rows * row;
        const int64_t words = layout.turners + rows * kSquareParts + plan.sign_words * layout.lanes;
        layout.shared = (words + 1) / 2 * 2 * int64_t{sizeof(float)} + layout.buffers;
        const bool fits = layout.shared <= most && layout.turners + layout.adders <= kMostRotatedThreads;
        if (rows == 1 || fits) break;
        --(layout.teams > 1 ? layout.teams : layout.rows);
    }
    if (layout.shared > most) {
        layout.shared -= layout.buffers;
    } else {
        layout.buffers = 0;
    }
    const int64_t rows = layout.teams * layout.rows;
    const Kernel kernel = choose(batch, in_float64, layout.pairs);
    const int64_t resident = resident_blocks(kernel, layout.turners + layout.adders, layout.shared, device);
    const int64_t blocks = std::min<int64_t>(resident / std::max<int64_t>(1, draws), blocks_for(batch.tokens, rows));
    layout.parts = std::max<int64_t>(1, blocks) * layout.teams;
    return layout;
}

void sum_rotated(const RotatedParams& params, int64_t draws, bool in_float64, const Stream& stream) {
    const RotatedLayout& layout = params.layout;
    const Batch& batch = params.sums.batch;
    const Shape shape = {dim3(static_cast<unsigned>(layout.parts / layout.teams), static_cast<unsigned>(draws)),
                         layout.turners + layout.adders, layout.shared};
    launch(choose(batch, in_float64, params.pair_sums != nullptr), shape, stream, params,
           plan_for(batch.neurons, layout.lanes, in_float64));
}

}  // namespace univfast::cuda
