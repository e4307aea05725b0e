// Sums over the entries of sparse matrices: cost grows with the pairs that are active together, not with the widths.
#include "../sparse.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "parallel.h"

namespace univfast {
namespace cpu {
namespace {

// Rows that a thread takes at a time: activity differs much from row to row.
constexpr int64_t kRowsOfATask = 16;
// Entries of a row ahead of the one in use, of which the token's entries are asked for: they lie anywhere.
constexpr int64_t kAhead = 4;
constexpr int64_t kLine = 64;       // bytes
constexpr int64_t kMostAhead = 16;  // lines

void check(const Grouped& entries, int64_t most) {
    const int64_t* starts = entries.starts;
    if (entries.groups < 1 || starts[0] != 0) throw std::invalid_argument("entries: no groups, or not from 0");
    for (int64_t group = 0; group < entries.groups; ++group) {
        if (starts[group + 1] < starts[group]) throw std::invalid_argument("entries: groups that overlap");
    }
    for (int64_t entry = 0; entry < starts[entries.groups]; ++entry) {
        if (entries.numbers[entry] < 0 || entries.numbers[entry] >= most) {
            throw std::invalid_argument("entries: a number that is beyond its axis");
        }
    }
}

void check(DType dtype, int threads) {
    if (dtype != DType::float32 && dtype != DType::float64) throw std::invalid_argument("values: not float32 or 64");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
}

template <class T>
void group(const GroupEntriesParams& p) {
    const T* values = static_cast<const T*>(p.values);
    T* grouped = static_cast<T*>(p.grouped_values);
    // Where a group begins is moved to where its next entry goes, and so to its end. Each task has groups of its own,
    // and goes through all entries.
    const int64_t tasks = useful_threads(p.threads, p.groups, p.count);
    parallel_for(tasks, static_cast<int>(tasks), [&](int64_t task, int) {
        const int64_t first = p.groups * task / tasks, last = p.groups * (task + 1) / tasks;
        for (int64_t entry = 0; entry < p.count; ++entry) {
            const int64_t key = p.keys[entry];
            if (key < first || key >= last) continue;
            const int64_t to = p.starts[key]++;
            p.grouped_numbers[to] = p.numbers[entry];
            grouped[to] = values[entry];
        }
    });
    std::copy_backward(p.starts, p.starts + p.groups, p.starts + p.groups + 1);
    p.starts[0] = 0;
}

template <class T>
void moments(const Entries& entries, double* sums, double* squares) {
    const T* values = static_cast<const T*>(entries.values);
    for (int64_t entry = 0; entry < entries.count; ++entry) {
        const double value = static_cast<double>(values[entry]);
        sums[entries.features[entry]] += value;
        squares[entries.features[entry]] += value * value;
    }
}

void check(const Entries& entries) {
    for (int64_t entry = 0; entry < entries.count; ++entry) {
        if (entries.features[entry] < 0 || entries.features[entry] >= entries.width) {
            throw std::invalid_argument("entries: a feature that is beyond the width");
        }
    }
}

inline __attribute__((always_inline)) void prefetch(const void* from, const void* to) {
    const char* at = static_cast<const char*>(from);
    const char* end = std::min(static_cast<const char*>(to), at + kMostAhead * kLine);
    for (; at < end; at += kLine) __builtin_prefetch(at, 0, 2);
}

template <class T>
void add_row(const AddEntryProductsParams& p, int64_t row) {
    const T* of_row = static_cast<const T*>(p.rows.values);
    const T* of_columns = static_cast<const T*>(p.columns.values);
    const int64_t* starts = p.columns.starts;
    const int32_t* tokens = p.rows.numbers;
    double* c = p.c.data + row * p.c.row_stride;
    const int64_t last = p.rows.starts[row + 1];
    for (int64_t entry = p.rows.starts[row]; entry < last; ++entry) {
        if (entry + 2 * kAhead < last) __builtin_prefetch(starts + tokens[entry + 2 * kAhead], 0, 2);
        if (entry + kAhead < last) {
            const int64_t ahead = tokens[entry + kAhead];
            prefetch(p.columns.numbers + starts[ahead], p.columns.numbers + starts[ahead + 1]);
            prefetch(of_columns + starts[ahead], of_columns + starts[ahead + 1]);
        }
        const double a = static_cast<double>(of_row[entry]);
        const int64_t token = tokens[entry];
        for (int64_t other = starts[token]; other < starts[token + 1]; ++other) {
            c[p.columns.numbers[other]] += a * static_cast<double>(of_columns[other]);
        }
    }
}

}  // namespace
}  // namespace cpu

void group_entries(const GroupEntriesParams& params) {
    using namespace cpu;
    check(params.dtype, params.threads);
    if (params.count < 0 || params.groups < 1) throw std::invalid_argument("group_entries: no groups");
    std::fill_n(params.starts, params.groups + 1, 0);
    for (int64_t entry = 0; entry < params.count; ++entry) {
        const int64_t key = params.keys[entry];
        if (key < 0 || key >= params.groups) throw std::invalid_argument("keys: one that is no group");
        ++params.starts[key + 1];
    }
    std::partial_sum(params.starts, params.starts + params.groups + 1, params.starts);
    params.dtype == DType::float64 ? group<double>(params) : group<float>(params);
}

std::optional<int64_t> repeated_entry(const Entries& entries, int64_t* seen) {
    cpu::check(entries);
    std::fill_n(seen, entries.width, -1);
    for (int64_t entry = 0; entry < entries.count; ++entry) {
        int64_t& token = seen[entries.features[entry]];
        if (token == entries.tokens[entry]) return entry;
        token = entries.tokens[entry];
    }
    return std::nullopt;
}

void add_entry_moments(const Entries& entries, double* sums, double* squares) {
    cpu::check(entries.dtype, 1);
    cpu::check(entries);
    if (entries.dtype == DType::float64) {
        cpu::moments<double>(entries, sums, squares);
    } else {
        cpu::moments<float>(entries, sums, squares);
    }
}

void add_entry_products(const AddEntryProductsParams& params) {
    using namespace cpu;
    check(params.dtype, params.threads);
    const CoMoments& c = params.c;
    if (c.rows != params.rows.groups) throw std::invalid_argument("add_entry_products: rows are not those of c");
    check(params.rows, params.columns.groups);
    check(params.columns, c.columns);
    const int64_t entries = params.rows.starts[c.rows];
    const int64_t of_a_token = params.columns.starts[params.columns.groups] / params.columns.groups + 1;
    const int threads = useful_threads(params.threads, c.rows, entries * of_a_token);
    parallel_for((c.rows + kRowsOfATask - 1) / kRowsOfATask, threads, [&](int64_t task, int) {
        const int64_t last = std::min(c.rows, (task + 1) * kRowsOfATask);
        for (int64_t row = task * kRowsOfATask; row < last; ++row) {
            params.dtype == DType::float64 ? add_row<double>(params, row) : add_row<float>(params, row);
        }
    });
}

}  // namespace univfast
