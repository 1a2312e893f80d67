// One role of a grouped convolution, as it is asked for.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "parallel.h"

namespace grouped_conv {

enum class Role : int { kForward, kInputGradient, kFilterGradient };

// x (batch, *image, groups * channels), filters (*size, channels, groups * filters) and
// y (batch, *outputs, groups * filters). Output o of an axis meets pixel o * stride + t * dilation
// - before at tap t; what lies outside of the image is left out of the sums.
struct Convolution {
  int64_t batch, groups;
  int64_t channels, filters;  // of a group
  int64_t image[3], size[3], outputs[3];
  int64_t stride[3], dilation[3], before[3];
  Number number, result;  // of the operands, and of what is computed
};

// Computes one role from the other two operands, in the order x, filters, y.
void compute(Threads& threads, const Kernels& kernels, Role role, const Convolution& convolution,
             const void* lhs, const void* rhs, void* result);

}  // namespace grouped_conv
