// How a layer of bfloat16 is laid out for products of 16 bits: [blocks of kPackTokens tokens][panels of kPanel neurons]
// [pairs of tokens][kPanel]. An element has the values of a neuron at two tokens that follow each other, that of the
// first in its low half. Zeros stand behind the last token and the last neuron; the last block has as many pairs as
// there are.
#pragma once

#include <algorithm>
#include <cstdint>

namespace univfast {

// Pairs of a block and panel, 24 KB, stay in the first cache while a block of rows is multiplied with them.
constexpr int64_t kPackTokens = 256;
// Three vectors of 16 float32: with 8 rows, 24 sums that stay in registers.
constexpr int64_t kPanel = 48;

constexpr int64_t panels(int64_t neurons) { return (neurons + kPanel - 1) / kPanel; }

// Of the tokens of a block that begins at token `first`.
constexpr int64_t token_pairs(int64_t tokens, int64_t first) { return (std::min(kPackTokens, tokens - first) + 1) / 2; }

// Where the pairs of a panel begin, in a block that begins at token `first`.
constexpr int64_t packed_offset(int64_t tokens, int64_t neurons, int64_t first, int64_t panel) {
    return (first / 2 * panels(neurons) + token_pairs(tokens, first) * panel) * kPanel;
}

}  // namespace univfast
