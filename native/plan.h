// How a correlation is cut into blocks, and where its sources lie in the scratch.
#pragma once

#include <cstdint>

#include "convolution.h"
#include "geometry.h"

namespace grouped_conv {

struct Plan {
  Plan(Role role, const Convolution& convolution, const void* x, const void* y);

  int64_t accumulator_bytes() const;
  int64_t lanes(const Kernels& kernels) const { return kernels.vector_bytes / accumulator_bytes(); }
  // Taps of all phases.
  int64_t taps() const;
  // Chooses how many groups are merged.
  void merge_groups(const Kernels& kernels);
  int64_t group_blocks() const { return ceil_div(correlation.groups, correlation.merged); }
  // Vectors of the filters of a block of groups.
  int64_t vectors(const Kernels& kernels) const {
    return ceil_div(correlation.outputs * correlation.merged, lanes(kernels));
  }
  // Whether x can be read where it lies.
  bool can_be_direct() const;
  // Lays the sources out, of so many channels of a group and blocks of groups at a time, and chooses
  // blocks of outputs: at least `wanted` of an image if there are so many rows, with a scratch of
  // `bytes` if it can be, and no more than `columns` columns.
  void lay_out(int64_t channels, int64_t group_blocks, int64_t bytes, int64_t wanted, int64_t columns);
  // The taps as runs, once it is laid out; Correlation points into it.
  Runs cut(int64_t longest);
  int64_t source_numbers() const;
  int64_t scratch_bytes() const { return source_numbers() * accumulator_bytes(); }
  int64_t blocks() const;              // of an image
  Block block(int64_t i) const;        // of all images

  int64_t batch;
  Axis axes[3];
  Correlation correlation;
};

void correlate(Threads& threads, const Kernels& kernels, Plan& plan, const Filters& filters);
void reduce(Threads& threads, const Kernels& kernels, Plan& plan, void* result);

}  // namespace grouped_conv
