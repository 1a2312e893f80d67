// What a file of an instruction set offers, and what it is told. Plain data only: these files are
// compiled for processors that the rest must not assume, and share no inline function with it.
#pragma once

#include <cstdint>

namespace grouped_conv {

enum class Number : int { kFloat32, kFloat64, kBfloat16, kFloat16 };

// From one number up to another.
struct Range {
  int64_t from, to;
};

// Taps along the last axis: where the first one's sources lie from those of the first output on,
// and how many there are. Either the sources of neighbouring outputs are those of neighbouring
// taps, and kernels take 1, 2, 3, 5 or 7; or taps are of neighbouring pixels, whose numbers follow
// each other, and there may be any number.
struct Run {
  int64_t source;
  int64_t taps;
  Range inside[3];  // outputs of the phase, along each axis, whose first tap lies in the image
};
constexpr int64_t kLongestRun = 7;

// The most vectors of filters and columns of a tile, blocks of groups that are copied together, and
// vectors that numbers of a block of several groups fill.
constexpr int64_t kMostVectors = 4, kMostBlocks = 16, kMostPicked = 8;
constexpr int64_t kMostTileColumns = 14;
constexpr int64_t kMostShuffled = kMostPicked * 16;
// Whether there are tiles of so many vectors of 2 or 4 merged groups. More vectors, or two of two
// groups, are better merged less.
constexpr bool is_merged_tile(int64_t merged, int64_t vectors) {
  return vectors == 1 || vectors == 3 || (vectors == 2 && merged == 4);
}

// One axis of a block of outputs, as `Axis` resolves it; the first one taken apart.
struct AxisView {
  int64_t source, output, stride, spread, low, halo;
  int64_t block;  // outputs of a phase in a block
  int64_t phases;
  const int64_t* source_phases;
};

// How the sources of some rows of outputs lie, in numbers: a pixel is at
//   row * row_size + phases * phase_sizes + block of groups * block_size + column * column_size.
// Phases of the last axis are distances in pixels. So are the others where x itself is read; in the
// scratch they are counted.
struct Layout {
  int64_t row_size, block_size, column_size;
  int64_t phase_sizes[3];
};

// y = x correlated with filters; in a filter gradient x and y are its operands.
struct Correlation {
  AxisView axes[3];
  Layout layout;
  int64_t groups, inputs, outputs;  // channels of x and of y in a group
  int64_t merged;                   // groups whose filters are lanes of a vector: 1, 2, 4 or all
  int64_t last_group;               // with which the last block of merged groups begins
  Number number, result;            // of x and filters, and of what is computed
  const void* x;                    // (batch, *axes, groups * inputs)
  const void* y;                    // (batch, *axes, groups * outputs); written unless an operand
  int64_t phases;                   // of the outputs
  const Run* runs;
  int64_t run_count;
  const int64_t* first;        // by phase of the outputs, one more than there are: its first run
  const int64_t* first_tap;    // likewise: taps of all runs before it
  const int64_t* filter_taps;  // flat index in the filter of each tap of each run
  bool flat;                   // runs are of neighbouring pixels
  int64_t rows_at_once;        // of outputs, whose sources are near together
  bool in_place;               // x is read where it lies, and not copied to the scratch
  Range interior[3];           // outputs of a phase all of whose taps lie in the image
};

// Which outputs: `at` is the first of a phase, along each axis.
struct Block {
  int64_t image;
  int64_t at[3];
};

// Which groups, channels and filters: of each of `blocks` blocks of merged groups, `parts` tiles of
// `vectors` vectors of filters. Only single groups are divided.
struct Share {
  int64_t first_block, blocks;
  int64_t first_channel, channels;  // of a filter gradient
  int64_t first_vector, vectors, parts;
};

// The filters (*filter, channels, groups * filters) of which packed ones are made.
struct Filters {
  const void* data;
  int64_t channels, filters;  // in a group
  bool exchanged;             // inputs are filters, outputs channels: an input gradient
};

struct Kernels {
  const char* name;
  int64_t vector_bytes;
  // What rows of so many columns cost with tiles of so many vectors of filters, in cycles.
  double (*cost_of_row)(int64_t columns, int64_t vectors);
  // The filters of one block and tile as (run, channel, tap, vector, lane), or of flat runs as
  // (run, tap, channel, vector, lane), and whether all of them are finite.
  bool (*pack)(const Correlation&, const Filters&, const Share&, void* packed);
  // From filters that are packed as (block, part).
  void (*correlate)(const Correlation&, const Block&, const Share&, const void* packed,
                    void* scratch);
  // Adds to sums (block, part, run, tap, channel, vector, lane).
  void (*reduce)(const Correlation&, const Block&, const Share&, void* sums, void* scratch);
};

const Kernels* kernels_baseline();
#if defined(__x86_64__)
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
#endif

}  // namespace grouped_conv
