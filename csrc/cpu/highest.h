// Lists of a neuron's highest values and of their tokens: highest first, of equal ones the lower token first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace univfast::cpu {

// What a value must be above to be among the highest of a list, if all tokens to come are `token` or later.
template <class T>
T floor_of(double lowest, int64_t its_token, int64_t token) {
    const T value = static_cast<T>(lowest);
    const bool may_equal = its_token >= token || static_cast<double>(value) > lowest;
    return may_equal ? std::nextafter(value, -std::numeric_limits<T>::infinity()) : value;
}

// Where a value and its token stand in a list then; `count` if they are not among its highest.
template <class V>
int64_t place_of(V value, int64_t token, const V* values, const int64_t* tokens, int64_t count) {
    int64_t place = count;
    while (place > 0 && (value > values[place - 1] || (value == values[place - 1] && token < tokens[place - 1]))) {
        --place;
    }
    return place;
}

// Puts what belongs to a place there, and moves what is behind it, of which the last drops out.
template <class V>
void put(V value, int64_t place, V* list, int64_t count) {
    std::copy_backward(list + place, list + count - 1, list + count);
    list[place] = value;
}

}  // namespace univfast::cpu
