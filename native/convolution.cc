#include "convolution.h"

#include "plan.h"

namespace grouped_conv {

void compute(Threads& threads, const Kernels& kernels, Role role, const Convolution& n,
             const void* lhs, const void* rhs, void* result) {
  if (role == Role::kFilterGradient) {
    Plan plan(role, n, lhs, rhs);
    return reduce(threads, kernels, plan, result);
  }
  const bool exchanged = role == Role::kInputGradient;
  Plan plan(role, n, exchanged ? rhs : lhs, result);
  const Filters filters{exchanged ? lhs : rhs, n.channels, n.filters, exchanged};
  correlate(threads, kernels, plan, filters);
}

}  // namespace grouped_conv
