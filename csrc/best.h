// Lists of the highest so far. Compiled by host and device alike.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace univfast {

// Puts a correlation that is higher than the lowest of the list into its place, behind those as high.
UNIVFAST_HOST_DEVICE inline void insert(double value, int64_t column, int64_t count, double* best,
                                        int64_t* best_column) {
    int64_t at = count - 1;
    for (; at > 0 && value > best[at - 1]; --at) {
        best[at] = best[at - 1];
        best_column[at] = best_column[at - 1];
    }
    best[at] = value;
    best_column[at] = column;
}

}  // namespace univfast
