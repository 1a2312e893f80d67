// Where the taps of a correlation lie.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace grouped_conv {

int64_t ceil_div(int64_t a, int64_t b);   // any a, b > 0
int64_t floor_div(int64_t a, int64_t b);  // likewise

// One spatial axis of a correlation: output y meets source x at tap t where
//   x * spread == y * stride + t * step + offset.
// A stride is that of a forward pass or filter gradient, a spread that of an input gradient.
//
// Outputs are y = q * spread + phase and sources x = r * stride + phase. Between the q and the r
// of two phases every tap is a constant shift: r = q + shift.
struct Axis {
  struct Tap {
    int64_t index;         // in the filter
    int64_t output_phase;  // less than spread
    int64_t source_phase;  // position in source_phases
    int64_t shift;
  };

  Axis(int64_t source, int64_t output, int64_t size, int64_t stride, int64_t spread, int64_t step,
       int64_t offset);

  // Makes every place of a tap a source phase of its own, so that all shifts are zero: phases may
  // then be any numbers.
  void take_apart();

  // Outputs of a phase whose source at a tap lies in the image, and those of which all do.
  Range inside(const Tap& tap) const;
  Range interior() const;

  int64_t outputs() const { return ceil_div(output, spread); }  // of a phase, at most
  int64_t halo() const { return high - low; }

  int64_t source, output, size, stride, spread;
  std::vector<Tap> taps;               // by output phase, source phase and shift
  std::vector<int64_t> source_phases;  // those that some tap reads
  int64_t low = 0, high = 0;           // least and greatest shift
};

// The taps of three axes as runs of neighbours along the last one: by output phase, then the
// longest first.
struct Runs {
  Runs(const Axis (&axes)[3], const Correlation& correlation);

  std::vector<Run> runs;
  std::vector<int64_t> first, first_tap, filter_taps;  // as in Correlation
};

// `count` in the fewest parts of at most `most` that are as equal as can be.
struct Split {
  Split(int64_t count, int64_t most);
  int64_t start(int64_t i) const { return count * i / parts; }
  int64_t size(int64_t i) const { return start(i + 1) - start(i); }
  int64_t largest() const { return ceil_div(count, parts); }
  int64_t count, parts;
};

}  // namespace grouped_conv
