#include "plan.h"

#include <algorithm>

namespace grouped_conv {
namespace {

Axis axis_of(Role role, const Convolution& n, int i) {
  if (role == Role::kInputGradient)
    return Axis(n.outputs[i], n.image[i], n.size[i], 1, n.stride[i], -n.dilation[i], n.before[i]);
  return Axis(n.image[i], n.outputs[i], n.size[i], n.stride[i], 1, n.dilation[i], -n.before[i]);
}

// Whether an output meets the pixel in its own place alone.
bool is_identity(const Axis& axis) {
  return axis.size == 1 && axis.stride == 1 && axis.spread == 1 && axis.source == axis.output &&
         axis.taps.size() == 1 && axis.low == 0;
}

}  // namespace

Plan::Plan(Role role, const Convolution& n, const void* x, const void* y)
    : batch(n.batch), axes{axis_of(role, n, 0), axis_of(role, n, 1), axis_of(role, n, 2)} {
  if (std::all_of(axes, axes + 3, is_identity)) {
    // Pixels are independent: one long row.
    const int64_t all = batch * axes[0].output * axes[1].output * axes[2].output;
    axes[0] = axes[1] = Axis(1, 1, 1, 1, 1, 1, 0);
    axes[2] = Axis(all, all, 1, 1, 1, 1, 0);
    batch = 1;
  }
  const bool exchanged = role == Role::kInputGradient;
  correlation = {};
  correlation.groups = n.groups;
  correlation.inputs = exchanged ? n.filters : n.channels;
  correlation.outputs = exchanged ? n.channels : n.filters;
  correlation.number = n.number, correlation.result = n.result;
  correlation.x = x, correlation.y = y;
  for (int i = 0; i < 3; ++i) {
    const Axis& axis = axes[i];
    correlation.axes[i] = {axis.source, axis.output, axis.stride,
                           axis.spread, axis.low,    axis.halo(),
                           axis.outputs(), int64_t(axis.source_phases.size()),
                           axis.source_phases.data()};
  }
  correlation.phases = axes[0].spread * axes[1].spread * axes[2].spread;
}

int64_t Plan::accumulator_bytes() const { return correlation.number == Number::kFloat64 ? 8 : 4; }

int64_t Plan::taps() const {
  return axes[0].taps.size() * axes[1].taps.size() * axes[2].taps.size();
}

void Plan::merge_groups(const Kernels& kernels) {
  const int64_t width = lanes(kernels), outputs = correlation.outputs, groups = correlation.groups;
  double best = 0;
  for (int64_t merged = 1; merged <= width; merged *= 2) {
    const int64_t part = width / merged, filters = ceil_div(outputs, part) * part;
    // Of several groups whole vectors are needed, and all of them in one tile.
    if (merged > 1 && (filters != outputs || outputs / part > kMostVectors)) continue;
    if (merged > 1 && merged * std::max(correlation.inputs, outputs) > kMostPicked * width) continue;
    // Lanes in use; in doubt less merging, which changes less of the order of numbers.
    const double used = double(outputs) / filters * groups / (ceil_div(groups, merged) * merged);
    if (used > 1.1 * best) best = used, correlation.merged = merged;
  }
}

bool Plan::can_be_direct() const {
  if (correlation.merged > 1) return false;
  if (correlation.number != Number::kFloat32 && correlation.number != Number::kFloat64) return false;
  return std::all_of(axes, axes + 3, [](const Axis& axis) {
    if (axis.taps.size() != 1) return false;
    const Axis::Tap& tap = axis.taps[0];
    const int64_t last = ceil_div(axis.output - tap.output_phase, axis.spread) - 1;
    const int64_t from = tap.shift * axis.stride + axis.source_phases[0];
    return from >= 0 && from + last * axis.stride < axis.source;
  });
}

void Plan::lay_out(int64_t channels, int64_t group_blocks, int64_t bytes, int64_t wanted,
                   int64_t columns) {
  AxisView* views = correlation.axes;
  Layout& layout = correlation.layout;
  if (correlation.direct) {
    layout = {};
    layout.slice = 1;
    layout.column_size = views[2].stride * correlation.groups * correlation.inputs;
    const int64_t all = axes[2].outputs(), parts = ceil_div(all, columns);
    views[2].block = ceil_div(all, std::min(all, std::max(parts, wanted)));
    views[0].block = views[1].block = 1;
    return;
  }
  auto resize = [&](int i, int64_t block) {
    views[i].block = block;
    // Rows that are powers of two apart would meet in a few sets of the cache.
    const int64_t line = 64 / accumulator_bytes();
    layout.column_size = channels * correlation.merged;
    layout.block_size = ceil_div((views[2].block + views[2].halo) * layout.column_size, line) * line;
    layout.phase_size = group_blocks * layout.block_size;
    layout.row_size = views[0].phases * views[1].phases * views[2].phases * layout.phase_size;
    layout.row_size = (ceil_div(layout.row_size, line) | 1) * line;
    layout.slice = views[1].block + views[1].halo;
    return scratch_bytes() <= bytes;
  };
  auto largest = [&](int i, int64_t most) {
    int64_t low = 1, high = std::max<int64_t>(1, most);
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (resize(i, middle)) low = middle;
      else high = middle - 1;
    }
    resize(i, Split(axes[i].outputs(), low).largest());
  };
  resize(0, 1), resize(1, 1);
  largest(2, std::min(axes[2].outputs(), columns));
  const int64_t rows = axes[1].outputs();
  largest(1, ceil_div(rows, std::min(rows, wanted)));
  if (views[1].block == rows) {
    const int64_t slices = axes[0].outputs();
    largest(0, ceil_div(slices, std::min(slices, wanted)));
  }
}

Runs Plan::cut(int64_t longest) {
  Runs runs(axes, correlation.layout, longest);
  correlation.runs = runs.runs.data();
  correlation.run_count = int64_t(runs.runs.size());
  correlation.first = runs.first.data();
  correlation.first_tap = runs.first_tap.data();
  correlation.filter_taps = runs.filter_taps.data();
  return runs;
}

int64_t Plan::source_numbers() const {
  const AxisView* views = correlation.axes;
  return (views[0].block + views[0].halo) * correlation.layout.slice * correlation.layout.row_size;
}

int64_t Plan::blocks() const {
  int64_t count = 1;
  for (int i = 0; i < 3; ++i) count *= ceil_div(axes[i].outputs(), correlation.axes[i].block);
  return count;
}

Block Plan::block(int64_t i) const {
  Block block;
  for (int k = 2; k >= 0; --k) {
    const int64_t size = correlation.axes[k].block, count = ceil_div(axes[k].outputs(), size);
    block.at[k] = i % count * size;
    i /= count;
  }
  block.image = i;
  return block;
}

}  // namespace grouped_conv
