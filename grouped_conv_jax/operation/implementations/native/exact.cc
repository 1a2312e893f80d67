#include "exact.h"

#include <algorithm>
#include <array>
#include <vector>

#include "numbers.h"

namespace grouped_conv {
namespace {

// A tap that an output meets.
struct Met {
  int64_t index;   // in the filter
  int64_t source;  // in the image
};

// An output and the source that it meets at some tap.
struct Pair {
  int64_t output, source;
};

// The taps inside of the image of an output of one axis, and whether there are none outside.
struct Meeting {
  Meeting(const Axis& axis, int64_t output) {
    const int64_t phase = output % axis.spread, q = output / axis.spread;
    for (const Axis::Tap& tap : axis.taps) {
      if (tap.output_phase != phase) continue;
      const int64_t source =
          (q + tap.shift) * axis.stride + axis.source_phases[size_t(tap.source_phase)];
      if (source >= 0 && source < axis.source)
        taps.push_back({tap.index, source});
      else
        inside = false;
    }
  }
  std::vector<Met> taps;
  bool inside = true;
};

// Calls f(tap, source pixel) for every tap of an output inside of the image.
template <class F>
void for_taps(const Plan& plan, const std::array<Meeting, 3>& met, int64_t image, const F& f) {
  const Axis* axes = plan.axes;
  for (const Met& z : met[0].taps)
    for (const Met& y : met[1].taps)
      for (const Met& x : met[2].taps)
        f((z.index * axes[1].size + y.index) * axes[2].size + x.index,
          ((image * axes[0].source + z.source) * axes[1].source + y.source) * axes[2].source +
              x.source);
}

}  // namespace

void correct_borders(Threads& threads, const Plan& plan, const Filters& w) {
  const Correlation& n = plan.correlation;
  const Axis* axes = plan.axes;
  const int64_t rows = plan.batch * axes[0].output * axes[1].output;
  const int64_t channels = n.groups * n.outputs, width = n.groups * w.filters;
  with_numbers(n.number, n.result, [&](auto number, auto sum, auto result) {
    using S = decltype(number);
    using A = decltype(sum);
    using R = decltype(result);
    const S* x = static_cast<const S*>(n.x);
    const S* filters = static_cast<const S*>(w.data);
    R* y = static_cast<R*>(const_cast<void*>(n.y));
    parallel_for(threads, rows, [&](int64_t row) {
      std::array<Meeting, 3> met{Meeting(axes[0], row / axes[1].output % axes[0].output),
                                 Meeting(axes[1], row % axes[1].output), Meeting(axes[2], 0)};
      std::vector<A> sums(channels);
      for (int64_t column = 0; column < axes[2].output; ++column) {
        met[2] = Meeting(axes[2], column);
        if (met[0].inside && met[1].inside && met[2].inside) continue;
        std::fill(sums.begin(), sums.end(), A(0));
        for_taps(plan, met, row / axes[1].output / axes[0].output, [&](int64_t tap, int64_t pixel) {
          for (int64_t i = 0; i < channels; ++i) {
            const int64_t group = i / n.outputs, own = i % n.outputs;
            for (int64_t c = 0; c < n.inputs; ++c) {
              const int64_t at = w.exchanged
                                     ? (tap * w.channels + own) * width + group * w.filters + c
                                     : (tap * w.channels + c) * width + i;
              sums[i] +=
                  to_float(x[(pixel * n.groups + group) * n.inputs + c]) * to_float(filters[at]);
            }
          }
        });
        R* to = y + (row * axes[2].output + column) * channels;
        for (int64_t i = 0; i < channels; ++i) to[i] = from_float<R>(sums[i]);
      }
    });
  });
}

void reduce_exactly(Threads& threads, const Plan& plan, void* result) {
  const Correlation& n = plan.correlation;
  const Axis* axes = plan.axes;
  const int64_t outputs = n.groups * n.outputs;
  const int64_t taps = axes[0].size * axes[1].size * axes[2].size;
  // Along each axis, by tap: which outputs meet which sources.
  std::vector<std::vector<Pair>> met[3];
  for (int i = 0; i < 3; ++i) {
    met[i].resize(size_t(axes[i].size));
    for (int64_t output = 0; output < axes[i].output; ++output)
      for (const Met& tap : Meeting(axes[i], output).taps)
        met[i][size_t(tap.index)].push_back({output, tap.source});
  }
  with_numbers(n.number, n.result, [&](auto number, auto sum, auto converted) {
    using S = decltype(number);
    using A = decltype(sum);
    using R = decltype(converted);
    const S *x = static_cast<const S*>(n.x), *y = static_cast<const S*>(n.y);
    // One tap and channel at a time, of all groups.
    parallel_for(threads, taps * n.inputs, [&](int64_t task) {
      const int64_t tap = task / n.inputs, c = task % n.inputs;
      const int64_t tap_z = tap / axes[2].size / axes[1].size;
      const int64_t tap_y = tap / axes[2].size % axes[1].size, tap_x = tap % axes[2].size;
      std::vector<A> sums(size_t(outputs), A(0));
      for (int64_t image = 0; image < plan.batch; ++image)
        for (const Pair& pz : met[0][size_t(tap_z)])
          for (const Pair& py : met[1][size_t(tap_y)])
            for (const Pair& px : met[2][size_t(tap_x)]) {
              const int64_t pixel =
                  ((image * axes[0].source + pz.source) * axes[1].source + py.source) *
                      axes[2].source +
                  px.source;
              const int64_t place =
                  ((image * axes[0].output + pz.output) * axes[1].output + py.output) *
                      axes[2].output +
                  px.output;
              const S* channel = x + pixel * n.groups * n.inputs + c;
              const S* cotangent = y + place * outputs;
              for (int64_t g = 0; g < n.groups; ++g)
                for (int64_t f = 0; f < n.outputs; ++f)
                  sums[size_t(g * n.outputs + f)] +=
                      to_float(channel[g * n.inputs]) * to_float(cotangent[g * n.outputs + f]);
            }
      R* to = static_cast<R*>(result) + task * outputs;
      for (int64_t i = 0; i < outputs; ++i) to[i] = from_float<R>(sums[size_t(i)]);
    });
  });
}

}  // namespace grouped_conv
