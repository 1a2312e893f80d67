// Forward pass and input gradient: blocks of outputs, spread over threads.

#include <algorithm>
#include <atomic>

#include "convolution.h"
#include "exact.h"
#include "geometry.h"
#include "plan.h"

namespace grouped_conv {
namespace {

// A task's filters, and the sources of the rows that it computes together, stay in the second-level
// cache; sources that are read in place nearly in the first.
constexpr int64_t kFilterBytes = 768 << 10, kFarBytes = 768 << 10, kSourceBytes = 256 << 10,
                  kStripBytes = 64 << 10;
// Blocks of groups whose sources are copied together, lines that follow each other, if the second-
// level cache holds so many times the rows that one row of outputs needs.
constexpr int64_t kCopiedBlocks = 8, kRowsAtOnce = 4;
// Filters that are packed in less time than it takes to wake another thread.
constexpr int64_t kLeastToShare = 256 << 10;
// Tasks for each thread, so that all end at about the same time.
constexpr int64_t kTasksPerThread = 4;

FilterTiles cheapest_tiles(const Kernels& kernels, const Plan& plan, int64_t vectors) {
  const int64_t columns = plan.axes[2].outputs();
  const auto cost = [&](const FilterTiles& tiles) {
    return tiles.wider * kernels.cost_of_row(columns, tiles.width) +
           (tiles.count - tiles.wider) * kernels.cost_of_row(columns, tiles.width - 1);
  };
  FilterTiles best(vectors, 1);
  for (int64_t widest = 2; widest <= plan.widest_tile(); ++widest) {
    const FilterTiles tiles(vectors, widest);
    if (cost(tiles) < cost(best)) best = tiles;
  }
  return best;
}

}  // namespace

void correlate(Threads& threads, const Kernels& kernels, Plan& plan, const Filters& filters) {
  Correlation& n = plan.correlation;
  plan.merge_groups(kernels);
  const int64_t vectors = plan.vectors(kernels), group_blocks = plan.group_blocks();
  const int64_t vector_bytes = plan.taps() * n.inputs * kernels.vector_bytes;
  const FilterTiles tiles =
      n.merged > 1 ? FilterTiles(vectors, vectors) : cheapest_tiles(kernels, plan, vectors);
  // Tasks take several blocks of groups, if these are no more than a vector of channels, or several
  // tiles of filters of one group. Blocks that overlap belong to one.
  const bool is_slim = n.merged * n.inputs <= plan.lanes(kernels) && tiles.count == 1;
  const int64_t overlapping = plan.overlapping_blocks();
  const int64_t copied =
      std::clamp<int64_t>(kSourceBytes / (kRowsAtOnce * plan.row_bytes()), 2, kCopiedBlocks);
  const Split blocks(group_blocks - overlapping, !is_slim ? 1
                                                 : n.in_place
                                                     ? plan.group_blocks_within(kStripBytes)
                                                     : copied);
  const TileSets sets(
      tiles, std::max<int64_t>(1, kFilterBytes / std::max<int64_t>(1, tiles.width * vector_bytes)));

  // Tasks that take blocks of groups of the same rows find these in the second-level cache.
  const int64_t wanted = ceil_div(kTasksPerThread * threads.count(),
                                  std::max<int64_t>(1, plan.batch * blocks.parts * sets.count()));
  const int64_t far = blocks.parts > 1 ? ceil_div(plan.image_bytes(), kFarBytes) : 1;
  if (n.in_place)
    plan.lay_out_in_place(blocks.largest(), kStripBytes, wanted);
  else
    plan.lay_out(n.inputs, blocks.largest(), tiles.width * plan.lanes(kernels), kSourceBytes,
                 std::max(far, wanted));
  n.flat = tiles.width > 1;
  const Runs runs = plan.cut();
  char* packed =
      static_cast<char*>(scratch(Purpose::kFilters, group_blocks * vectors * vector_bytes));
  auto packed_tile = [&](int64_t block, int64_t tile) {
    return packed + (block * vectors + tiles.first_vector(tile)) * vector_bytes;
  };
  std::atomic<bool> finite{true};
  Alone alone;
  const bool is_small = group_blocks * vectors * vector_bytes <= kLeastToShare;
  Threads& packing = is_small ? static_cast<Threads&>(alone) : threads;
  parallel_for(packing, group_blocks * tiles.count, [&](int64_t i) {
    const int64_t block = i / tiles.count, tile = i % tiles.count;
    const Share share{block, 1, 0, n.inputs, tiles.first_vector(tile), tiles.vectors(tile), 1};
    if (!kernels.pack(n, filters, share, packed_tile(block, tile))) finite = false;
  });

  const int64_t sum_bytes =
      n.rows_at_once * (n.axes[2].block + kMostTileColumns) * tiles.width * kernels.vector_bytes;
  const int64_t images = plan.batch * plan.blocks();
  // Neighbouring tasks share filters that are large, and else lines of the image.
  const bool filters_last =
      sets.count() == 1 && group_blocks * vectors * vector_bytes < kFilterBytes;
  const int64_t kinds = blocks.parts * sets.count();
  parallel_for(threads, kinds * images, [&](int64_t task) {
    const int64_t image = filters_last ? task / kinds : task % images;
    const int64_t kind = filters_last ? task % kinds : task / images;
    const int64_t i = kind / sets.count(), set = kind % sets.count(), tile = sets.first(set);
    const Share share{blocks.start(i),
                      blocks.size(i) + (i + 1 == blocks.parts ? overlapping : 0),
                      0,
                      n.inputs,
                      tiles.first_vector(tile),
                      tiles.vectors(tile),
                      sets.size(set)};
    kernels.correlate(n, plan.block(image), share, packed_tile(blocks.start(i), tile),
                      scratch(Purpose::kTask, plan.scratch_bytes() + sum_bytes));
  });
  if (!finite && !n.in_place) correct_borders(threads, plan, filters);
}

}  // namespace grouped_conv
