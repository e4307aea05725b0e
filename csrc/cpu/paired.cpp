// Paired moments on the CPU.
//
// The tokens are cut into chunks, and the chunks into parts. The cut depends on the shapes alone,
// and partial results are merged in its order, so the bits do not depend on the number of threads.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "chunk.h"
#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Tokens that share a pivot: enough that taking it, lifting and merging, cost little beside the sums, and few enough
// that a short batch has work for several threads.
constexpr int64_t kLeastChunk = 512;
constexpr int64_t kLargestChunk = 2048;
constexpr int64_t kChunksWanted = 16;
// Parts bound the parallelism of one call, and the memory of partial results.
constexpr int64_t kMaxParts = 128;
constexpr int64_t kMinParts = 8;
constexpr int64_t kPartBytes = int64_t{128} << 20;  // bytes, for all parts together, where kMinParts allows

int64_t chunk_tokens(int64_t tokens) {
    const int64_t share = tokens / kChunksWanted / kRunTokens * kRunTokens;
    return std::clamp(share, kLeastChunk, kLargestChunk);
}

int64_t chunk_count(int64_t tokens) { return (tokens + chunk_tokens(tokens) - 1) / chunk_tokens(tokens); }

int64_t part_count(int64_t tokens, int64_t neurons, int64_t draws, const Shifts& shifts) {
    const int64_t part_bytes = piece<double>(moment_rows(draws, shifts) * neurons);
    const int64_t affordable = std::clamp(kPartBytes / part_bytes, kMinParts, kMaxParts);
    return std::min(chunk_count(tokens), affordable);
}

// The first token of a part; of the part behind the last: the number of tokens.
int64_t part_begin(int64_t part, int64_t parts, int64_t tokens) {
    return std::min(part * chunk_count(tokens) / parts * chunk_tokens(tokens), tokens);
}

int thread_count(int threads, int64_t tokens, int64_t neurons, int64_t draws, const Shifts& shifts) {
    return useful_threads(threads, part_count(tokens, neurons, draws, shifts), tokens * neurons * (1 + draws));
}

// moments = those of tokens begin .. end; or the first bad value among them.
std::optional<BadValue> part_moments(const Job& job, int64_t begin, int64_t end, double* moments, Scratch& scratch) {
    const int64_t chunk = chunk_tokens(job.params.tokens_used);
    for (int64_t token = begin; token < end; token += chunk) {
        const int64_t count = std::min(chunk, end - token);
        if (const auto bad = chunk_moments(job, token, count, scratch)) return bad;
        if (token == begin) {
            std::copy_n(scratch.sums, job.rows() * job.neurons, moments);
        } else {
            merge_moments(job, moments, static_cast<double>(token - begin), scratch.sums, static_cast<double>(count),
                          scratch);
        }
    }
    return std::nullopt;
}

void check_sizes(int64_t tokens, int64_t neurons, int64_t draws, int threads) {
    if (tokens < 1 || neurons < 1 || draws < 0 || threads < 1) {
        throw std::invalid_argument("paired_moments: tokens, neurons and threads must be at least 1");
    }
}

void check_counts(const Shifts& shifts) {
    if (!valid_counts(shifts)) throw std::invalid_argument("shifts: must have 1 or 5 lags");
}

void check_shifts(const Shifts& shifts, int64_t neurons) {
    check_counts(shifts);
    const auto inside = [&](int64_t shift) { return shift >= 0 && shift < neurons; };
    if (shifts.count > 0 && !(std::all_of(shifts.leads, shifts.leads + lead_count(shifts), inside) &&
                              std::all_of(shifts.lags, shifts.lags + shifts.lag_count, inside))) {
        throw std::invalid_argument("shifts: leads and lags must be below the number of neurons");
    }
}

void check(const PairedParams& p) {
    check_sizes(p.tokens_used, p.a.columns, p.signs.draws, p.threads);
    check_shifts(p.shifts, p.a.columns);
    if (p.a.columns != p.b.columns) throw std::invalid_argument("a, b: widths must be equal");
    const int64_t rows = std::min(p.a.rows, p.b.rows);
    if (!p.rows && p.tokens_used > rows) throw std::invalid_argument("tokens_used: more than a or b has rows");
    for (int64_t t = 0; p.rows && t < p.tokens_used; ++t) {
        if (p.rows[t] < 0 || p.rows[t] >= rows) throw std::invalid_argument("rows: not a row of a and b");
    }
}

}  // namespace
}  // namespace cpu

int64_t paired_workspace(int64_t tokens_used, int64_t neurons, int64_t draws, const Shifts& shifts, int threads) {
    using namespace cpu;
    check_sizes(tokens_used, neurons, draws, threads);
    check_counts(shifts);
    return thread_count(threads, tokens_used, neurons, draws, shifts) * scratch_size(neurons, draws, shifts) +
           part_count(tokens_used, neurons, draws, shifts) * piece<double>(moment_rows(draws, shifts) * neurons);
}

std::optional<BadValue> paired_moments(const PairedParams& params) {
    using namespace cpu;
    check(params);
    const Job job(params);
    const int64_t tokens = params.tokens_used, size = job.rows() * job.neurons;
    const int64_t parts = part_count(tokens, job.neurons, job.draws, params.shifts);
    const int threads = thread_count(params.threads, tokens, job.neurons, job.draws, params.shifts);

    Workspace workspace(params.workspace, params.workspace_size);
    std::vector<Scratch> scratch;
    for (int thread = 0; thread < threads; ++thread) {
        scratch.push_back(take_scratch(workspace, job.neurons, job.draws, params.shifts));
    }
    std::vector<double*> moments;
    for (int64_t part = 0; part < parts; ++part) moments.push_back(workspace.take<double>(size));
    std::vector<std::optional<BadValue>> bad(static_cast<size_t>(parts));

    const auto begin = [&](int64_t part) { return part_begin(part, parts, tokens); };
    parallel_for(parts, threads, [&](int64_t part, int thread) {
        bad[part] = part_moments(job, begin(part), begin(part + 1), moments[part], scratch[thread]);
    });
    for (const auto& value : bad) {
        if (value) return value;
    }

    std::copy_n(moments[0], size, params.moments);
    for (int64_t part = 1; part < parts; ++part) {
        merge_moments(job, params.moments, static_cast<double>(begin(part)), moments[part],
                      static_cast<double>(begin(part + 1) - begin(part)), scratch[0]);
    }
    return std::nullopt;
}

}  // namespace univfast
