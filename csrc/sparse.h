// The operations on sparse features, and their contracts, as univfast.h has those on dense ones.
//
// What is there of a sparse matrix: of each entry its number on one axis, that on the other, and its value, float32 or
// float64; all else is 0.
#pragma once

#include "univfast.h"

namespace univfast {

// Entries in groups of one number on one axis: those of group g stand from starts[g] to starts[g + 1].
struct Grouped {
    const int64_t* starts;   // [groups + 1], not decreasing, from 0
    const int32_t* numbers;  // [starts[groups]] on the other axis
    const void* values;      // [starts[groups]]
    int64_t groups;
};

// Puts entries into groups by their keys; those of a group stay in their order.
struct GroupEntriesParams {
    const int32_t* keys;     // [count], each in 0 .. groups
    const int32_t* numbers;  // [count] on the other axis
    const void* values;      // [count] of dtype
    DType dtype;
    int64_t count;
    int64_t groups;
    int64_t* starts;           // [groups + 1]
    int32_t* grouped_numbers;  // [count]
    void* grouped_values;      // [count] of dtype
    int threads;
};
void group_entries(const GroupEntriesParams& params);

// Entries as they are found, those of a token next to each other.
struct Entries {
    const int32_t* tokens;    // [count], not decreasing
    const int32_t* features;  // [count], each in 0 .. width
    const void* values;       // [count] of dtype
    DType dtype;
    int64_t count;
    int64_t width;
};

// The number of the first entry whose feature the same token has before; none, if there is none.
// seen: [width], written.
std::optional<int64_t> repeated_entry(const Entries& entries, int64_t* seen);

// sums[f] += value, squares[f] += value^2, for each entry of feature f; both [width], float64. Tokens may come in any
// order.
void add_entry_moments(const Entries& entries, double* sums, double* squares);

// c[i, j] += a * b for each entry a of row i and each entry b of column j that share their token, in float64. A row is
// summed by one thread, token by token, so that the bits do not depend on `threads`.
struct AddEntryProductsParams {
    CoMoments c;
    Grouped rows;     // by row of c: numbers are tokens
    Grouped columns;  // by token: numbers are columns of c
    DType dtype;      // of both
    int threads;
};
void add_entry_products(const AddEntryProductsParams& params);

}  // namespace univfast
