// Forward pass and input gradient: blocks of outputs, spread over threads.

#include <algorithm>
#include <atomic>

#include "convolution.h"
#include "exact.h"
#include "geometry.h"
#include "plan.h"

namespace grouped_conv {
namespace {

// A task's scratch should leave room in the second-level cache, and its filters too.
constexpr int64_t kBlockBytes = 384 << 10, kFilterBytes = 512 << 10;
// Tasks for each thread, so that all end at about the same time.
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kMostColumns = 1024;

void correlate_narrow(Threads& threads, const Kernels& kernels, Plan& plan, const Filters& filters) {
  Correlation& n = plan.correlation;
  const int64_t lanes = plan.lanes(kernels), lane_blocks = ceil_div(n.groups * n.outputs, lanes);
  plan.lay_out(lanes, n.inputs, kBlockBytes,
               ceil_div(kTasksPerThread * threads.count(), plan.batch * lane_blocks), kMostColumns);
  const Runs runs = plan.cut(n.inputs, kLongestRun);
  const int64_t packed_bytes = int64_t(runs.filter_taps.size()) * kernels.vector_bytes;
  char* packed = static_cast<char*>(scratch(Purpose::kFilters, lane_blocks * packed_bytes));
  std::atomic<bool> finite{true};
  parallel_for(threads, lane_blocks, [&](int64_t i) {
    if (!kernels.pack_narrow(n, filters, i, packed + i * packed_bytes)) finite = false;
  });
  const int64_t blocks = plan.blocks();
  parallel_for(threads, plan.batch * blocks * lane_blocks, [&](int64_t task) {
    const int64_t lane_block = task % lane_blocks, at = task / lane_blocks;
    kernels.correlate_narrow(n, plan.block(at), lane_block, packed + lane_block * packed_bytes,
                             scratch(Purpose::kTask, plan.scratch_bytes()));
  });
  if (!finite) correct_borders(threads, plan, filters);
}

void correlate_wide(Threads& threads, const Kernels& kernels, Plan& plan, const Filters& filters) {
  Correlation& n = plan.correlation;
  const int64_t lanes = plan.lanes(kernels);
  const int64_t vectors = ceil_div(n.outputs, lanes);
  const int64_t tap_bytes = plan.taps() * n.inputs * kernels.vector_bytes;
  // The widest tiles whose filters stay in a cache; the first of them are a vector wider.
  const int64_t widest = std::clamp<int64_t>(kFilterBytes / std::max<int64_t>(1, tap_bytes), 1, 4);
  const Split tiles(vectors, widest);
  const int64_t width = tiles.largest(), wider = vectors - tiles.parts * (width - 1);
  n.direct = plan.can_be_direct();
  const int64_t at_once = std::max<int64_t>(1, kFilterBytes / std::max<int64_t>(1, width * tap_bytes));
  // Tiles of one width that a task computes from one copy of the sources.
  const Split wide_sets(wider, at_once), others(tiles.parts - wider, at_once);
  const int64_t sets = wide_sets.parts + (tiles.parts > wider ? others.parts : 0);
  plan.lay_out(n.inputs, 1, kBlockBytes,
               ceil_div(kTasksPerThread * threads.count(), plan.batch * n.groups * sets), kMostColumns);
  const Runs runs = plan.cut(1, width == 1 ? kLongestRun : 1);

  auto first_vector = [&](int64_t tile) {
    return tile < wider ? tile * width : wider * width + (tile - wider) * (width - 1);
  };
  char* packed = static_cast<char*>(
      scratch(Purpose::kFilters, std::max<int64_t>(1, n.groups * vectors * tap_bytes)));
  std::atomic<bool> finite{true};
  parallel_for(threads, n.groups * tiles.parts, [&](int64_t i) {
    const int64_t group = i / tiles.parts, tile = i % tiles.parts, first = first_vector(tile);
    if (!kernels.pack_wide(n, filters, group, first * lanes, tile < wider ? width : width - 1,
                           packed + (group * vectors + first) * tap_bytes))
      finite = false;
  });
  const int64_t blocks = plan.batch * plan.blocks();
  parallel_for(threads, n.groups * sets * blocks, [&](int64_t task) {
    const int64_t group = task / blocks / sets, set = task / blocks % sets;
    const bool is_wide = set < wide_sets.parts;
    const Split& split = is_wide ? wide_sets : others;
    const int64_t i = is_wide ? set : set - wide_sets.parts;
    const int64_t first = first_vector((is_wide ? 0 : wider) + split.start(i));
    kernels.correlate_wide(n, plan.block(task % blocks), group, first * lanes,
                           is_wide ? width : width - 1, split.size(i),
                           packed + (group * vectors + first) * tap_bytes,
                           scratch(Purpose::kTask, plan.scratch_bytes()));
  });
  if (!finite) correct_borders(threads, plan, filters);
}

}  // namespace

void correlate(Threads& threads, const Kernels& kernels, Plan& plan, const Filters& filters) {
  (plan.is_narrow(kernels) ? correlate_narrow : correlate_wide)(threads, kernels, plan, filters);
}

}  // namespace grouped_conv
