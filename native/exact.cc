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

// The taps inside of the image of an output of one axis, and whether there are none outside.
struct Meeting {
  Meeting(const Axis& axis, int64_t output) {
    const int64_t phase = output % axis.spread, q = output / axis.spread;
    for (const Axis::Tap& tap : axis.taps) {
      if (tap.output_phase != phase) continue;
      const int64_t source =
          (q + tap.shift) * axis.stride + axis.source_phases[size_t(tap.source_phase)];
      if (source >= 0 && source < axis.source) taps.push_back({tap.index, source});
      else inside = false;
    }
  }
  std::vector<Met> taps;
  bool inside = true;
};

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
              sums[i] += to_float(x[(pixel * n.groups + group) * n.inputs + c]) * to_float(filters[at]);
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
  with_numbers(n.number, n.result, [&](auto number, auto sum, auto converted) {
    using S = decltype(number);
    using A = decltype(sum);
    using R = decltype(converted);
    const S *x = static_cast<const S*>(n.x), *y = static_cast<const S*>(n.y);
    // One tap and channel at a time, of all groups.
    parallel_for(threads, taps * n.inputs, [&](int64_t task) {
      const int64_t tap = task / n.inputs, c = task % n.inputs;
      std::vector<A> sums(outputs, A(0));
      for (int64_t image = 0; image < plan.batch; ++image)
        for (int64_t qz = 0; qz < axes[0].output; ++qz)
          for (int64_t qy = 0; qy < axes[1].output; ++qy)
            for (int64_t qx = 0; qx < axes[2].output; ++qx) {
              const std::array<Meeting, 3> met{Meeting(axes[0], qz), Meeting(axes[1], qy),
                                               Meeting(axes[2], qx)};
              for_taps(plan, met, image, [&](int64_t own, int64_t pixel) {
                if (own != tap) return;
                const S* cotangent =
                    y + (((image * axes[0].output + qz) * axes[1].output + qy) * axes[2].output + qx) *
                            outputs;
                for (int64_t i = 0; i < outputs; ++i)
                  sums[i] += to_float(x[(pixel * n.groups + i / n.outputs) * n.inputs + c]) *
                             to_float(cotangent[i]);
              });
            }
      R* to = static_cast<R*>(result) + task * outputs;
      for (int64_t i = 0; i < outputs; ++i) to[i] = from_float<R>(sums[i]);
    });
  });
}

}  // namespace grouped_conv
