// Sums over taps inside of the image alone, for the rare numbers that padding with zeros spoils:
// an infinite weight times a zero is NaN.
#pragma once

#include "plan.h"

namespace grouped_conv {

// Computes outputs again of which some tap lies outside of the image.
void correct_borders(Threads& threads, const Plan& plan, const Filters& filters);

// Computes the whole filter gradient (*size, inputs, groups * outputs) again.
void reduce_exactly(Threads& threads, const Plan& plan, void* result);

}  // namespace grouped_conv
