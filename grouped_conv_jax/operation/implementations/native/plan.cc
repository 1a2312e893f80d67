#include "plan.h"

#include <algorithm>

namespace grouped_conv {
namespace {

// Blocks of fewer columns would copy more of the borders than of themselves.
constexpr int64_t kLeastColumns = 48, kMostColumns = 128;
// What is read in place is read in strips of so many columns, whose rows stay near.
constexpr int64_t kStripColumns = 14;
// Rows of sources of all blocks of groups that are read before the next rows are.
constexpr int64_t kRowsBytes = 160 << 10;
// Rows of a strip, whose sums may have to wait in the scratch.
constexpr int64_t kMostRows = 64;

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
  axes[0].take_apart();
  const bool exchanged = role == Role::kInputGradient;
  correlation = {};
  correlation.groups = n.groups;
  correlation.inputs = exchanged ? n.filters : n.channels;
  correlation.outputs = exchanged ? n.channels : n.filters;
  correlation.number = n.number, correlation.result = n.result;
  correlation.x = x, correlation.y = y;
  for (int i = 0; i < 3; ++i) {
    const Axis& axis = axes[i];
    correlation.axes[i] = {axis.source,
                           axis.output,
                           axis.stride,
                           axis.spread,
                           axis.low,
                           axis.halo(),
                           axis.outputs(),
                           int64_t(axis.source_phases.size()),
                           axis.source_phases.data()};
    correlation.interior[i] = axis.interior();
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
  const bool is_double = correlation.number == Number::kFloat64;
  for (int64_t merged : {int64_t(1), int64_t(2), int64_t(4), width}) {
    if (merged > width || (is_double && merged > 1 && merged < width)) continue;
    const int64_t part = width / merged, filters = ceil_div(outputs, part) * part;
    // Of several groups whole vectors are needed, and all of them in one tile.
    if (merged > 1 && (filters != outputs || outputs / part > widest_tile())) continue;
    if (merged > 1 && merged < width && !is_merged_tile(merged, outputs / part)) continue;
    if (merged > 1 && merged * std::max(correlation.inputs, outputs) > kMostPicked * width)
      continue;
    // Lanes in use, of sources too, whose order changes a vector at a time; in doubt less merging.
    double used = double(outputs) / filters * groups / (ceil_div(groups, merged) * merged);
    if (merged > 1 && merged * correlation.inputs % width != 0) used *= 0.8;
    if (used > 1.1 * best) best = used, correlation.merged = merged;
  }
  correlation.last_group = (group_blocks() - 1) * correlation.merged;
  correlation.in_place = can_be_in_place(kernels);
  // The last block overlaps the one before it, where it would read past a pixel.
  if (correlation.in_place) correlation.last_group = groups - correlation.merged;
}

bool Plan::can_be_in_place(const Kernels& kernels) const {
  if (correlation.number != Number::kFloat32 && correlation.number != Number::kFloat64)
    return false;
  // A depthwise convolution of whole vectors, whose tiles know of borders.
  if (correlation.merged == lanes(kernels))
    return correlation.inputs == 1 && correlation.outputs == 1 &&
           correlation.groups >= correlation.merged;
  // One tap that never leaves the image.
  return correlation.merged == 1 && std::all_of(axes, axes + 3, [](const Axis& axis) {
           const Range interior = axis.interior();
           return axis.taps.size() == 1 && interior.from == 0 && interior.to == axis.outputs();
         });
}

int64_t Plan::row_bytes() const {
  const AxisView* views = correlation.axes;
  const int64_t rows = (views[1].halo + 1) * views[1].phases * views[0].phases;
  return std::max<int64_t>(1, rows * (axes[2].outputs() + views[2].halo) * views[2].stride *
                                  correlation.merged * correlation.inputs * accumulator_bytes());
}

int64_t Plan::image_bytes() const {
  int64_t sources = correlation.inputs, outputs = correlation.outputs;
  for (const Axis& axis : axes) sources *= axis.source, outputs *= axis.output;
  return (sources + outputs) * correlation.groups * accumulator_bytes();
}

int64_t Plan::group_blocks_within(int64_t bytes) const {
  const AxisView* views = correlation.axes;
  int64_t block = correlation.merged * accumulator_bytes();
  for (int i = 0; i < 3; ++i) {
    const int64_t outputs = i == 2 ? std::min(kStripColumns, axes[2].outputs()) : 1;
    block *= (outputs + views[i].halo) * views[i].phases;
  }
  return std::clamp<int64_t>(bytes / std::max<int64_t>(1, block), 1, kMostBlocks);
}

void Plan::lay_out_in_place(int64_t group_blocks, int64_t bytes, int64_t wanted) {
  AxisView *views = correlation.axes, &height = views[1], &width = views[2];
  const int64_t channels = correlation.groups * correlation.inputs;
  views[0].block = height.block = 1;
  if (correlation.merged == 1) {
    const int64_t least = ceil_div(width.block, std::min(width.block, wanted));
    width.block = Split(width.block, std::min(least, kMostColumns)).largest();
  } else {
    int64_t column = group_blocks * correlation.merged * accumulator_bytes() * width.phases;
    for (int i = 0; i < 2; ++i) column *= (views[i].halo + 1) * views[i].phases;
    const int64_t most = bytes / std::max<int64_t>(1, column) - width.halo;
    width.block = Split(axes[2].outputs(), std::max(kStripColumns, most)).largest();
    const int64_t strips = ceil_div(axes[2].outputs(), std::max<int64_t>(1, width.block));
    const int64_t parts =
        std::max(ceil_div(wanted, strips), ceil_div(axes[1].outputs(), kMostRows));
    height.block = ceil_div(axes[1].outputs(), std::min(axes[1].outputs(), parts));
  }
  const int64_t columns = (width.block + width.halo) * width.phases * group_blocks;
  const int64_t row_of_sources = columns * correlation.merged * correlation.inputs * height.phases *
                                 views[0].phases * accumulator_bytes();
  correlation.rows_at_once = std::clamp<int64_t>(
      kRowsBytes / std::max<int64_t>(1, row_of_sources) - height.halo, 1, height.block);
  const int64_t row = width.source * channels;
  correlation.layout = {height.stride * row,
                        correlation.merged * correlation.inputs,
                        width.stride * channels,
                        {height.source * row, row, channels}};
}

void Plan::lay_out(int64_t channels, int64_t group_blocks, int64_t others, int64_t bytes,
                   int64_t wanted) {
  AxisView *views = correlation.axes, &height = views[1], &width = views[2];
  Layout& layout = correlation.layout;
  views[0].block = 1;
  const int64_t pixel = channels * correlation.merged;
  const int64_t column =
      views[0].phases * height.phases * width.stride * group_blocks * pixel * accumulator_bytes();
  const int64_t other = others * accumulator_bytes();
  // As many columns as let all rows that one row of outputs needs stay near, but not too few.
  const int64_t most =
      bytes / std::max<int64_t>(1, (height.halo + 1) * column + other) - width.halo;
  width.block = Split(axes[2].outputs(), std::max(kLeastColumns, most)).largest();
  const int64_t columns = width.block + width.halo;
  const int64_t fit =
      (bytes - height.halo * columns * column) / std::max<int64_t>(1, columns * (column + other));
  height.block = ceil_div(axes[1].outputs(), std::min(axes[1].outputs(), wanted));
  correlation.rows_at_once =
      std::clamp<int64_t>(fit, std::min(height.halo + 1, height.block), height.block);

  const int64_t line = 64 / accumulator_bytes();
  layout.column_size = width.stride * pixel;
  layout.block_size = ceil_div(columns * layout.column_size, line) * line;
  layout.phase_sizes[2] = pixel;
  layout.phase_sizes[1] = group_blocks * layout.block_size;
  layout.phase_sizes[0] = height.phases * layout.phase_sizes[1];
  // Rows that are powers of two apart would meet in a few sets of the cache.
  layout.row_size = (ceil_div(views[0].phases * layout.phase_sizes[0], line) | 1) * line;
}

Runs Plan::cut() {
  Runs runs(axes, correlation);
  correlation.runs = runs.runs.data();
  correlation.run_count = int64_t(runs.runs.size());
  correlation.first = runs.first.data();
  correlation.first_tap = runs.first_tap.data();
  correlation.filter_taps = runs.filter_taps.data();
  return runs;
}

int64_t Plan::source_numbers() const {
  if (correlation.in_place) return 0;
  return (correlation.rows_at_once + correlation.axes[1].halo) * correlation.layout.row_size;
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
