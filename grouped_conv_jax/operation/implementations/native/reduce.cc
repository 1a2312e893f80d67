// Filter gradient: blocks of channels and filters, each summed over shares of the images.

#include <algorithm>
#include <atomic>
#include <cstring>

#include "convolution.h"
#include "exact.h"
#include "geometry.h"
#include "numbers.h"
#include "plan.h"

namespace grouped_conv {
namespace {

// Sources and cotangents that are summed over at once stay in the first-level cache, a task's
// sums in the second.
constexpr int64_t kNearBytes = 28 << 10, kSumBytes = 256 << 10;
// Sources of a strip of rows that are read in place, block after block of groups, a few rows at a
// time: neighbouring lines follow each other closely.
constexpr int64_t kStripBytes = 256 << 10;
// Blocks of groups that are copied together.
constexpr int64_t kCopiedBlocks = 4;
// Tasks to cut the work into, if it is worth it: a number of its own, for results must not depend
// on how many threads there are.
constexpr int64_t kTasks = 16;
constexpr int64_t kLeastShare = 1 << 18;  // multiplications
// Partial gradients of shares of the images.
constexpr int64_t kPartialBytes = 32 << 20;

// The shares of the blocks of all images, each of which has sums of its own.
Split shares(const Plan& plan, int64_t tasks, int64_t gradient_bytes) {
  const Correlation& n = plan.correlation;
  const int64_t blocks = plan.batch * plan.blocks();
  const double multiplications = double(plan.batch) * n.groups * n.inputs * n.outputs *
                                 plan.taps() * plan.axes[0].output * plan.axes[1].output *
                                 plan.axes[2].output;
  int64_t count = ceil_div(kTasks, tasks);
  count = std::min<int64_t>(count, 1 + multiplications / (double(tasks) * kLeastShare));
  count = std::min({count, blocks, std::max<int64_t>(1, kPartialBytes / gradient_bytes)});
  Split split(blocks, blocks);
  split.parts = std::max<int64_t>(1, count);
  return split;
}

// How many parts the channels of a group are cut into, and how many tiles of filters a task takes.
struct Cut {
  int64_t channel_parts, tiles;
};

// The one that reads and writes the least: each set of tiles copies the sources, each part of the
// channels the cotangents, and each share of the images that is needed for kTasks writes, reads and
// adds a gradient.
Cut cheapest_cut(const Plan& plan, const FilterTiles& tiles, int64_t blocks, int64_t vector_bytes,
                 int64_t gradient_bytes) {
  const Correlation& n = plan.correlation;
  double sources = double(plan.batch) * n.groups * n.inputs * plan.accumulator_bytes();
  double cotangents = double(plan.batch) * n.groups * n.outputs * plan.accumulator_bytes();
  for (const Axis& axis : plan.axes) sources *= axis.source, cotangents *= axis.output;
  Cut best{1, 1};
  double least = -1;
  for (int64_t parts = 1; parts <= (n.merged > 1 ? 1 : std::max<int64_t>(1, n.inputs / 8)); ++parts)
    for (int64_t count = 1; count <= tiles.count; ++count) {
      const int64_t sums = plan.taps() * ceil_div(n.inputs, parts) * tiles.width * vector_bytes;
      if (count * sums > kSumBytes && (count > 1 || parts < n.inputs / 8)) break;
      const int64_t sets = ceil_div(tiles.count, count);
      const int64_t shares = ceil_div(kTasks, sets * parts * blocks);
      const double cost = sets * sources + parts * cotangents + 3.0 * shares * gradient_bytes;
      if (least < 0 || cost < least) best = {parts, count}, least = cost;
    }
  return best;
}

// Adds the partial gradients up, converted. Returns whether none is NaN.
template <class A, class R>
bool add_up(const A* partials, int64_t parts, int64_t size, int64_t from, int64_t to, R* result) {
  bool defined = true;
  for (int64_t i = from; i < to; ++i) {
    A sum = partials[i];
    for (int64_t part = 1; part < parts; ++part) sum += partials[part * size + i];
    defined &= sum == sum;
    result[i] = from_float<R>(sum);
  }
  return defined;
}

// The sums of one task, put where they belong in a gradient (*size, inputs, groups * outputs).
// Returns whether none is NaN.
template <class A>
bool put_sums(const Plan& plan, const Kernels& kernels, const Share& share, const A* sums,
              A* gradient) {
  const Correlation& n = plan.correlation;
  const int64_t lanes = plan.lanes(kernels), part = lanes / n.merged, width = n.groups * n.outputs;
  bool defined = true;
  for (int64_t b = 0; b < share.blocks * share.parts; ++b) {
    const int64_t block = share.first_block + b / share.parts;
    const int64_t first = share.first_vector + b % share.parts * share.vectors;
    const int64_t group = std::min(block * n.merged, n.last_group);
    const int64_t groups = std::min(n.merged, n.groups - group);
    for (int64_t i = 0; i < n.first_tap[n.phases]; ++i)
      for (int64_t c = 0; c < share.channels; ++c) {
        A* tap = gradient + (n.filter_taps[i] * n.inputs + share.first_channel + c) * width +
                 group * n.outputs;
        for (int64_t v = first; v < first + share.vectors; ++v, sums += lanes) {
          const int64_t filters = std::min(part, n.outputs - v * part);
          if (n.merged == 1 || n.outputs == 1) {
            const int64_t count = filters * groups;
            A* to = tap + v * part;
            for (int64_t i = 0; i < count; ++i) defined &= sums[i] == sums[i];
            for (int64_t i = 0; i < count; ++i) to[i] = sums[i];
            continue;
          }
          for (int64_t f = 0; f < filters; ++f)
            for (int64_t g = 0; g < groups; ++g) {
              const A sum = sums[f * n.merged + g];
              defined &= sum == sum;
              tap[g * n.outputs + v * part + f] = sum;
            }
        }
      }
  }
  return defined;
}

}  // namespace

void reduce(Threads& threads, const Kernels& kernels, Plan& plan, void* result) {
  Correlation& n = plan.correlation;
  plan.merge_groups(kernels);
  const int64_t lanes = plan.lanes(kernels), bytes = plan.accumulator_bytes();
  const int64_t vectors = plan.vectors(kernels), group_blocks = plan.group_blocks();
  const FilterTiles tiles(vectors, n.merged > 1 ? vectors : plan.widest_tile());
  n.flat = n.merged < lanes || n.inputs > 1 || tiles.width > 1;
  const int64_t width = tiles.width;
  if (n.merged == 1) n.in_place = false;
  // Tasks take several blocks of groups, or several tiles of one.
  const bool is_slim = n.merged * n.inputs <= lanes && tiles.count == 1;
  const int64_t overlapping = plan.overlapping_blocks();
  const Split blocks(group_blocks - overlapping, !is_slim ? 1
                                                 : n.in_place
                                                     ? plan.group_blocks_within(kStripBytes)
                                                     : kCopiedBlocks);
  const int64_t filter_taps = plan.axes[0].size * plan.axes[1].size * plan.axes[2].size;
  const int64_t numbers = filter_taps * n.inputs * n.groups * n.outputs;
  const Cut cut = cheapest_cut(plan, tiles, blocks.parts, kernels.vector_bytes, numbers * bytes);
  const Split channels(n.inputs, ceil_div(n.inputs, cut.channel_parts));
  const TileSets sets(tiles, cut.tiles);
  const int64_t tasks = blocks.parts * sets.count() * channels.parts;
  const int64_t wanted = ceil_div(kTasks, std::max<int64_t>(1, plan.batch * tasks));
  if (n.in_place)
    plan.lay_out_in_place(blocks.largest(), kStripBytes, wanted);
  else
    plan.lay_out(channels.largest(), blocks.largest(), blocks.largest() * width * lanes, kNearBytes,
                 wanted);
  const Runs runs = plan.cut();

  const Split split = shares(plan, tasks, numbers * bytes);
  // One share's sums are the result, but for their type.
  const bool is_result =
      split.parts == 1 && (n.result == Number::kFloat32 || n.result == Number::kFloat64);
  void* partials = is_result ? result : scratch(Purpose::kFilters, split.parts * numbers * bytes);
  // Taps that meet no pixel have no sums.
  if (n.first_tap[n.phases] < filter_taps) std::memset(partials, 0, split.parts * numbers * bytes);
  const int64_t sum_bytes = (blocks.largest() + overlapping) * sets.largest() * plan.taps() *
                            channels.largest() * width * kernels.vector_bytes;
  const int64_t y_bytes = n.in_place ? 0
                                     : n.rows_at_once * n.axes[2].block * blocks.largest() * width *
                                           kernels.vector_bytes;
  std::atomic<bool> defined{true};
  with_numbers(n.number, n.result, [&](auto, auto sum, auto number) {
    using A = decltype(sum);
    using R = decltype(number);
    parallel_for(threads, split.parts * tasks, [&](int64_t task) {
      const int64_t part = task / tasks, c = task % channels.parts;
      const int64_t set = task / channels.parts % sets.count(), tile = sets.first(set);
      const int64_t block = task / channels.parts / sets.count() % blocks.parts;
      const Share share{blocks.start(block),
                        blocks.size(block) + (block + 1 == blocks.parts ? overlapping : 0),
                        channels.start(c),
                        channels.size(c),
                        tiles.first_vector(tile),
                        tiles.vectors(tile),
                        sets.size(set)};
      A* sums = static_cast<A*>(scratch(Purpose::kSums, sum_bytes));
      void* sources = scratch(Purpose::kTask, plan.scratch_bytes() + y_bytes);
      std::memset(sums, 0, sum_bytes);
      for (int64_t i = split.start(part); i < split.start(part + 1); ++i)
        kernels.reduce(n, plan.block(i), share, sums, sources);
      if (!put_sums(plan, kernels, share, sums, static_cast<A*>(partials) + part * numbers))
        defined = false;
    });
    const Split pieces(numbers, 1 << 14);
    parallel_for(threads, is_result ? 0 : pieces.parts, [&](int64_t i) {
      if (!add_up(static_cast<const A*>(partials), split.parts, numbers, pieces.start(i),
                  pieces.start(i + 1), static_cast<R*>(result)))
        defined = false;
    });
  });
  if (!defined) reduce_exactly(threads, plan, result);
}

}  // namespace grouped_conv
