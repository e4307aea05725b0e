// Wrong partners: which neuron a shift pairs with which. Compiled by host and device alike.
#pragma once

#include "host_device.h"
#include "univfast.h"

namespace univfast {

inline bool valid_counts(const Shifts& shifts) {
    return shifts.count >= 0 && (shifts.lag_count == 1 || shifts.lag_count == kSharedLags);
}

UNIVFAST_HOST_DEVICE inline int64_t lead_count(const Shifts& shifts) {
    return (shifts.count + shifts.lag_count - 1) / shifts.lag_count;
}

// How far shift d goes, in 0 .. neurons.
UNIVFAST_HOST_DEVICE inline int64_t shift_of(const Shifts& shifts, int64_t d, int64_t neurons) {
    return (shifts.leads[d / shifts.lag_count] + shifts.lags[d % shifts.lag_count]) % neurons;
}

// The neuron of b that neuron i of a is paired with.
UNIVFAST_HOST_DEVICE inline int64_t partner(int64_t i, int64_t shift, int64_t neurons) {
    return i + shift < neurons ? i + shift : i + shift - neurons;
}

}  // namespace univfast
