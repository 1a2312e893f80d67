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
// sums and scratch in the second.
constexpr int64_t kNearBytes = 28 << 10, kBlockBytes = 256 << 10, kSumBytes = 256 << 10;
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
  const double multiplications = double(plan.batch) * n.groups * n.inputs * n.outputs * plan.taps() *
                                 plan.axes[0].output * plan.axes[1].output * plan.axes[2].output;
  int64_t count = ceil_div(kTasks, tasks);
  count = std::min<int64_t>(count, 1 + multiplications / (double(tasks) * kLeastShare));
  count = std::min({count, blocks, std::max<int64_t>(1, kPartialBytes / gradient_bytes)});
  Split split(blocks, blocks);
  split.parts = std::max<int64_t>(1, count);
  return split;
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

// Where the sums of a task go in the gradient (*size, channels, groups * filters).
struct Target {
  int64_t channels, width;  // of a tap
  int64_t bytes;            // of a number
  char* data;
  char* at(int64_t tap, int64_t channel, int64_t filter) const {
    return data + ((tap * channels + channel) * width + filter) * bytes;
  }
};

struct Gradient {
  Gradient(const Plan& plan, int64_t filter_taps)
      : bytes(plan.accumulator_bytes()),
        numbers(filter_taps * plan.correlation.inputs * plan.correlation.groups *
                plan.correlation.outputs) {}
  int64_t bytes, numbers;
};

void reduce_narrow(Threads& threads, const Kernels& kernels, Plan& plan, const Gradient& gradient,
                   Split& split, char*& partials) {
  Correlation& n = plan.correlation;
  const int64_t lanes = plan.lanes(kernels), all = n.groups * n.outputs;
  const int64_t lane_blocks = ceil_div(all, lanes);
  const int64_t near_columns = kNearBytes / (2 * (n.inputs + 1) * kernels.vector_bytes);
  plan.lay_out(lanes, n.inputs, kBlockBytes, ceil_div(kTasks, plan.batch * lane_blocks),
               std::max<int64_t>(64, near_columns));
  const Runs runs = plan.cut(n.inputs, kLongestRun);
  const int64_t row_bytes =
      (n.layout.row_size + n.axes[2].block * lanes) * gradient.bytes;
  n.rows_at_once = std::clamp<int64_t>(kNearBytes / row_bytes - n.axes[1].halo, 1, n.axes[1].block);
  split = shares(plan, lane_blocks, gradient.numbers * gradient.bytes);
  partials = static_cast<char*>(
      scratch(Purpose::kFilters, split.parts * gradient.numbers * gradient.bytes));
  std::memset(partials, 0, split.parts * gradient.numbers * gradient.bytes);
  const int64_t sum_bytes = int64_t(runs.filter_taps.size()) * kernels.vector_bytes;
  const int64_t y_bytes = n.rows_at_once * n.axes[2].block * kernels.vector_bytes;
  parallel_for(threads, split.parts * lane_blocks, [&](int64_t task) {
    const int64_t lane_block = task % lane_blocks, part = task / lane_blocks;
    char* sums = static_cast<char*>(scratch(Purpose::kSums, sum_bytes));
    void* sources = scratch(Purpose::kTask, plan.scratch_bytes() + y_bytes);
    std::memset(sums, 0, sum_bytes);
    for (int64_t i = split.start(part); i < split.start(part + 1); ++i)
      kernels.reduce_narrow(n, plan.block(i), lane_block, sums, sources);
    const Target target{n.inputs, all, gradient.bytes,
                        partials + part * gradient.numbers * gradient.bytes};
    const int64_t first = lane_block * lanes, used = std::min(lanes, all - first);
    const int64_t* tap = n.filter_taps;
    for (const Run& run : runs.runs)
      for (int64_t k = 0; k < run.taps; ++k, ++tap, sums += kernels.vector_bytes)
        std::memcpy(target.at(*tap, run.channel, first), sums, used * gradient.bytes);
  });
}

void reduce_wide(Threads& threads, const Kernels& kernels, Plan& plan, const Gradient& gradient,
                 Split& split, char*& partials) {
  Correlation& n = plan.correlation;
  const int64_t lanes = plan.lanes(kernels);
  const int64_t vectors = ceil_div(n.outputs, lanes);
  const Split tiles(vectors, 4);
  const int64_t width = tiles.largest(), wider = vectors - tiles.parts * (width - 1);
  const int64_t channel_bytes = plan.taps() * width * kernels.vector_bytes;
  const int64_t most_channels = std::clamp<int64_t>(kSumBytes / std::max<int64_t>(1, channel_bytes), 8, 96);
  const Split channels(n.inputs, most_channels);
  const int64_t tasks = n.groups * tiles.parts * channels.parts;
  const int64_t column_bytes = (channels.largest() + width * lanes) * gradient.bytes;
  plan.lay_out(channels.largest(), 1, kBlockBytes, ceil_div(kTasks, plan.batch * tasks),
               std::max<int64_t>(16, kNearBytes / column_bytes));
  const Runs runs = plan.cut(1, kLongestRun);
  n.rows_at_once = std::clamp<int64_t>(
      kNearBytes / (column_bytes * (n.axes[2].block + n.axes[2].halo)) - n.axes[1].halo / 2, 1,
      n.axes[1].block);
  split = shares(plan, tasks, gradient.numbers * gradient.bytes);
  partials = static_cast<char*>(
      scratch(Purpose::kFilters, split.parts * gradient.numbers * gradient.bytes));
  std::memset(partials, 0, split.parts * gradient.numbers * gradient.bytes);
  const int64_t sum_bytes = std::max<int64_t>(1, channels.largest() * channel_bytes);
  const int64_t y_bytes = n.rows_at_once * n.axes[2].block * width * kernels.vector_bytes;
  parallel_for(threads, split.parts * tasks, [&](int64_t task) {
    const int64_t part = task / tasks, block = task / channels.parts % tiles.parts;
    const int64_t group = task / channels.parts / tiles.parts % n.groups, c = task % channels.parts;
    const int64_t first_vector =
        block < wider ? block * width : wider * width + (block - wider) * (width - 1);
    const int64_t wide = block < wider ? width : width - 1;
    char* sums = static_cast<char*>(scratch(Purpose::kSums, sum_bytes));
    void* sources = scratch(Purpose::kTask, plan.scratch_bytes() + y_bytes);
    std::memset(sums, 0, sum_bytes);
    for (int64_t i = split.start(part); i < split.start(part + 1); ++i)
      kernels.reduce_wide(n, plan.block(i), group, channels.start(c), channels.size(c),
                          first_vector * lanes, wide, sums, sources);
    const Target target{n.inputs, n.groups * n.outputs, gradient.bytes,
                        partials + part * gradient.numbers * gradient.bytes};
    const int64_t first = first_vector * lanes, used = std::min(wide * lanes, n.outputs - first);
    for (int64_t tap : runs.filter_taps)
      for (int64_t i = 0; i < channels.size(c); ++i, sums += wide * kernels.vector_bytes)
        std::memcpy(target.at(tap, channels.start(c) + i, group * n.outputs + first), sums,
                    used * gradient.bytes);
  });
}

}  // namespace

void reduce(Threads& threads, const Kernels& kernels, Plan& plan, void* result) {
  const int64_t filter_taps = plan.axes[0].size * plan.axes[1].size * plan.axes[2].size;
  const Gradient gradient(plan, filter_taps);
  Split split(1, 1);
  char* partials = nullptr;
  (plan.is_narrow(kernels) ? reduce_narrow : reduce_wide)(threads, kernels, plan, gradient, split,
                                                          partials);
  const Split pieces(gradient.numbers, 1 << 14);
  std::atomic<bool> defined{true};
  with_numbers(plan.correlation.number, plan.correlation.result, [&](auto, auto sum, auto number) {
    using A = decltype(sum);
    using R = decltype(number);
    parallel_for(threads, pieces.parts, [&](int64_t i) {
      if (!add_up(reinterpret_cast<const A*>(partials), split.parts, gradient.numbers,
                  pieces.start(i), pieces.start(i + 1), static_cast<R*>(result)))
        defined = false;
    });
  });
  if (!defined) reduce_exactly(threads, plan, result);
}

}  // namespace grouped_conv
