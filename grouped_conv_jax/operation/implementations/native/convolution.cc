#include "convolution.h"

#include "plan.h"

namespace grouped_conv {
namespace {

// Fewer multiplications take less time than to wake another thread.
constexpr double kLeastToShare = 1 << 17;

double multiplications(const Convolution& n) {
  double product = double(n.batch) * n.groups * n.channels * n.filters;
  for (int i = 0; i < 3; ++i) product *= double(n.outputs[i]) * n.size[i];
  return product;
}

}  // namespace

void compute(Threads& threads, const Kernels& kernels, Role role, const Convolution& n,
             const void* lhs, const void* rhs, void* result) {
  Alone alone;
  if (threads.count() > 1 && multiplications(n) < kLeastToShare)
    return compute(alone, kernels, role, n, lhs, rhs, result);
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
