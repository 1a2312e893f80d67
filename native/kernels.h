// What a file of an instruction set offers, and what it is told. Plain data only: these files are
// compiled for processors that the rest must not assume, and share no inline function with it.
#pragma once

#include <cstdint>

namespace grouped_conv {

enum class Number : int { kFloat32, kFloat64, kBfloat16, kFloat16 };

// Taps that are neighbours along the last axis: the first one's place in the scratch, their number.
struct Run {
  int64_t source;   // of channel 0 where kernels go through the channels themselves
  int64_t taps;
  int64_t channel;
};

// The longest run that kernels take.
constexpr int64_t kLongestRun = 7;

// The most channels of a group that kernels of narrow groups sum over.
constexpr int64_t kMostNarrowInputs = 32;

// One axis of a block of outputs, as `Axis` resolves it.
struct AxisView {
  int64_t source, output, stride, spread, low, halo;
  int64_t block;  // outputs of a phase in a block
  int64_t phases;
  const int64_t* source_phases;
};

// How the sources of a block lie in the scratch, in numbers: a pixel is at
//   (slice of the block * slice + row) * row_size + phase * phase_size + channel * channel_size +
//   column * column_size.
struct Layout {
  int64_t slice;  // rows of one
  int64_t row_size, phase_size, channel_size, column_size;
};

// y = x correlated with filters, or with x and y of a filter gradient exchanged for its operands.
struct Correlation {
  AxisView axes[3];
  Layout layout;
  int64_t groups, inputs, outputs;  // channels of x and of y in a group
  int64_t filters;                  // taps of the whole filter
  Number number, result;            // of x and filters, and of what is computed
  const void* x;                    // (batch, *axes, groups * inputs)
  const void* y;                    // (batch, *axes, groups * outputs); written unless it is an operand
  const Run* runs;
  int64_t run_count;
  const int64_t* first;        // by phase of the outputs, one more than there are: its first run
  const int64_t* first_tap;    // likewise: taps of all runs before it
  const int64_t* filter_taps;  // flat index in the filter of each tap of each run
  int64_t rows_at_once;        // that a filter gradient copies before it sums
  int64_t phases;              // of the outputs
  bool direct;                 // wide kernels read x where it lies: it has one tap, always inside
};

// Which outputs: `at` is the first of a phase, along each axis.
struct Block {
  int64_t image;
  int64_t at[3];
};

// The filters (*filter, channels, groups * filters) of which packed ones are made.
struct Filters {
  const void* data;
  Number number;
  int64_t channels, filters;  // in a group
  bool exchanged;             // inputs are filters, outputs channels: an input gradient
};

struct Kernels {
  const char* name;
  int64_t vector_bytes;

  // Lanes are neighbouring output channels, of any number of groups.
  // Packed filters of one block of lanes, and whether all of them are finite.
  bool (*pack_narrow)(const Correlation&, const Filters&, int64_t lane_block, void* packed);
  void (*correlate_narrow)(const Correlation&, const Block&, int64_t lane_block, const void* packed,
                           void* scratch);
  // Adds a block to sums (run, tap, lane).
  void (*reduce_narrow)(const Correlation&, const Block&, int64_t lane_block, void* sums,
                        void* scratch);

  // Lanes are neighbouring filters of one group, in blocks of 1 to 4 vectors.
  bool (*pack_wide)(const Correlation&, const Filters&, int64_t group, int64_t first_filter,
                    int64_t vectors, void* packed);
  void (*correlate_wide)(const Correlation&, const Block&, int64_t group, int64_t first_filter,
                         int64_t vectors, int64_t parts, const void* packed, void* scratch);
  // Adds a block to sums (tap, channel, filter).
  void (*reduce_wide)(const Correlation&, const Block&, int64_t group, int64_t first_channel,
                      int64_t channels, int64_t first_filter, int64_t vectors, void* sums,
                      void* scratch);
};

extern const Kernels kBaseline;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512;
#endif

}  // namespace grouped_conv
