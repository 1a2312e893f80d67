// How a correlation is cut into blocks, and where its sources lie in the scratch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "convolution.h"
#include "geometry.h"

namespace grouped_conv {

// Tiles of filters, the first of which may be a vector wider than the others.
struct FilterTiles {
  FilterTiles(int64_t vectors, int64_t widest)
      : count(ceil_div(vectors, widest)),
        width(ceil_div(vectors, count)),
        wider(vectors - count * (width - 1)) {}
  int64_t first_vector(int64_t tile) const {
    return tile * width - std::max<int64_t>(0, tile - wider);
  }
  int64_t vectors(int64_t tile) const { return tile < wider ? width : width - 1; }
  int64_t count, width, wider;
};

// Sets of at most so many tiles, all of the same width.
struct TileSets {
  TileSets(const FilterTiles& tiles, int64_t most)
      : tiles(tiles), wide(tiles.wider, most), other(tiles.count - tiles.wider, most) {}
  int64_t count() const { return wide.parts + (tiles.count > tiles.wider ? other.parts : 0); }
  int64_t largest() const { return std::max(wide.largest(), other.largest()); }
  int64_t first(int64_t set) const {
    return set < wide.parts ? wide.start(set) : tiles.wider + other.start(set - wide.parts);
  }
  int64_t size(int64_t set) const {
    return set < wide.parts ? wide.size(set) : other.size(set - wide.parts);
  }
  FilterTiles tiles;
  Split wide, other;
};

struct Plan {
  Plan(Role role, const Convolution& convolution, const void* x, const void* y);

  int64_t accumulator_bytes() const;
  int64_t lanes(const Kernels& kernels) const { return kernels.vector_bytes / accumulator_bytes(); }
  // Vectors of filters of a tile, at most.
  int64_t widest_tile() const { return correlation.number == Number::kFloat64 ? 1 : kMostVectors; }
  // Taps of all phases.
  int64_t taps() const;
  // Chooses how many groups are merged.
  void merge_groups(const Kernels& kernels);
  int64_t group_blocks() const { return ceil_div(correlation.groups, correlation.merged); }
  // 1 if the last block shares groups with the one before it.
  int64_t overlapping_blocks() const { return correlation.last_group % correlation.merged ? 1 : 0; }
  // Vectors of the filters of a block of groups.
  int64_t vectors(const Kernels& kernels) const {
    return ceil_div(correlation.outputs * correlation.merged, lanes(kernels));
  }
  // Whether x can be read where it lies, once groups are merged.
  bool can_be_in_place(const Kernels& kernels) const;
  // Sources of one block of groups that one row of outputs needs.
  int64_t row_bytes() const;
  // Sources and outputs of one image.
  int64_t image_bytes() const;
  // Blocks of groups whose sources of a row of outputs, of some columns, fill so many bytes.
  int64_t group_blocks_within(int64_t bytes) const;
  // Chooses blocks of outputs, `wanted` of an image if there are so many rows, and the rows whose
  // sources are in the scratch together, of so many channels of a group and blocks of groups at a
  // time: `bytes` of sources and of other numbers of each column, if it can be.
  void lay_out(int64_t channels, int64_t group_blocks, int64_t others, int64_t bytes,
               int64_t wanted);
  // The same for sources that are read in place: of so many blocks of groups.
  void lay_out_in_place(int64_t group_blocks, int64_t bytes, int64_t wanted);
  // The taps as runs, once it is laid out; Correlation points into it.
  Runs cut();
  int64_t source_numbers() const;
  int64_t scratch_bytes() const { return source_numbers() * accumulator_bytes(); }
  int64_t blocks() const;        // of an image
  Block block(int64_t i) const;  // of all images

  int64_t batch;
  Axis axes[3];
  Correlation correlation;
};

void correlate(Threads& threads, const Kernels& kernels, Plan& plan, const Filters& filters);
void reduce(Threads& threads, const Kernels& kernels, Plan& plan, void* result);

}  // namespace grouped_conv
