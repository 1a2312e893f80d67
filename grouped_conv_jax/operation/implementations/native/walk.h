// The order in which a block of outputs is computed, and what is copied when.
#pragma once

#include "vectors.h"

namespace grouped_conv {
namespace {

// Outputs that are computed alike: neighbours along the last axis, all of one phase, in one or two
// rows.
struct Row {
  int64_t phase;    // of the outputs
  int64_t at[3];    // the first one, among those of its phase
  int64_t source;   // where its sources begin, in the scratch or in x
  int64_t pixel;    // the first output, flat
  int64_t columns;  // how many in a row
  int64_t rows;
};

// Source pixels, neighbours along the last axis.
struct SourceRow {
  int64_t target;    // place in the scratch
  int64_t pixel;     // the first one, flat; it may lie outside
  int64_t from, to;  // those inside of the image
  int64_t count;
};

INLINE int64_t counted(const AxisView& axis, int64_t at) {
  return least(axis.block, divide_up(axis.output, axis.spread) - at);
}

// Calls copy(SourceRow) for all phases of one row of sources of a block, which goes to a place in
// the scratch.
template <class Copy>
INLINE void for_source_rows(const Correlation& n, const Block& block, int64_t row, int64_t target,
                            const Copy& copy) {
  const AxisView &depth = n.axes[0], &height = n.axes[1], &width = n.axes[2];
  const int64_t count = (counted(width, block.at[2]) + width.halo) * width.stride;
  const int64_t start = (block.at[2] + width.low) * width.stride;
  const int64_t from = least(greatest<int64_t>(-start, 0), count);
  const int64_t to = greatest(from, least(width.source - start, count));
  for (int64_t i = 0; i < depth.phases; ++i) {
    const int64_t z = block.at[0] * depth.stride + depth.source_phases[i];
    for (int64_t j = 0; j < height.phases; ++j, target += n.layout.phase_sizes[1]) {
      const int64_t y = (block.at[1] + height.low + row) * height.stride + height.source_phases[j];
      const bool inside = z >= 0 && z < depth.source && y >= 0 && y < height.source;
      copy(SourceRow{target,
                     ((block.image * depth.source + z) * height.source + y) * width.source + start,
                     inside ? from : count, inside ? to : count, count});
    }
  }
}

// The number of x from which runs count, for an output of a phase.
INLINE int64_t place_in_x(const Correlation& n, int64_t image, int64_t z, int64_t y, int64_t x) {
  const AxisView &depth = n.axes[0], &height = n.axes[1], &width = n.axes[2];
  const int64_t row = (image * depth.source + z * depth.stride) * height.source + y * height.stride;
  return (row * width.source + x * width.stride) * n.groups * n.inputs;
}

// Calls copy(SourceRow) for the sources of some rows of outputs of a block, and compute(first,
// count) for these rows, until all are computed. Of the sources, those that the next rows need too
// stay in the scratch.
template <class A, class Copy, class Compute>
INLINE void walk(const Correlation& n, const Block& block, A* scratch, const Copy& copy,
                 const Compute& compute) {
  const int64_t rows = counted(n.axes[1], block.at[1]), halo = n.axes[1].halo;
  const int64_t size = n.layout.row_size;
  for (int64_t at = 0; at < rows; at += n.rows_at_once) {
    const int64_t count = least(n.rows_at_once, rows - at);
    if (at > 0 && !n.in_place)
      __builtin_memmove(scratch, scratch + n.rows_at_once * size,
                        uint64_t(halo * size) * sizeof(A));
    for (int64_t row = at > 0 ? halo : 0; row < count + halo && !n.in_place; ++row)
      for_source_rows(n, block, at + row, row * size, copy);
    compute(at, count);
  }
}

// Calls compute(Row) for some phases of some rows of outputs, whose sources are near: `at_once`
// rows of a phase together, where there are as many.
template <class Compute>
INLINE void for_rows(const Correlation& n, const Block& block, int64_t first, int64_t count,
                     int64_t at_once, Range phases, const Compute& compute) {
  const AxisView &depth = n.axes[0], &height = n.axes[1], &width = n.axes[2];
  for (int64_t i = 0, rows; i < count; i += rows) {
    rows = i + at_once <= count ? at_once : 1;
    for (int64_t phase = phases.from; phase < phases.to; ++phase) {
      const int64_t pz = phase / width.spread / height.spread;
      const int64_t py = phase / width.spread % height.spread, px = phase % width.spread;
      const int64_t q = block.at[1] + first + i;
      const int64_t z = block.at[0] * depth.spread + pz, y = q * height.spread + py;
      const int64_t x = block.at[2] * width.spread + px;
      if (z >= depth.output || y >= height.output || x >= width.output) continue;
      compute(Row{phase,
                  {block.at[0], q, block.at[2]},
                  n.in_place ? place_in_x(n, block.image, block.at[0], q, block.at[2])
                             : i * n.layout.row_size,
                  ((block.image * depth.output + z) * height.output + y) * width.output + x,
                  least(counted(width, block.at[2]), divide_up(width.output - x, width.spread)),
                  rows});
    }
  }
}

}  // namespace
}  // namespace grouped_conv
