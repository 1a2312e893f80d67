#include "geometry.h"

#include <algorithm>

namespace grouped_conv {

int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }

Axis::Axis(int64_t source, int64_t output, int64_t size, int64_t stride, int64_t spread,
           int64_t step, int64_t offset)
    : source(source), output(output), size(size), stride(stride), spread(spread) {
  std::vector<int64_t> phases;
  for (int64_t phase = 0; phase < std::min(spread, output); ++phase)
    for (int64_t t = 0; t < size; ++t) {
      const int64_t place = phase * stride + t * step + offset;
      const int64_t unit = floor_div(place, spread);
      if (unit * spread != place) continue;
      const int64_t shift = floor_div(unit, stride), from = unit - shift * stride;
      // A tap that meets no pixel is left out: so no more is copied than there is.
      const int64_t last = ceil_div(output - phase, spread) - 1;
      if ((last + shift) * stride + from < 0 || shift * stride + from >= source) continue;
      taps.push_back({t, phase, from, shift});
      phases.push_back(from);
    }
  std::sort(phases.begin(), phases.end());
  phases.erase(std::unique(phases.begin(), phases.end()), phases.end());
  source_phases = phases;
  for (Tap& tap : taps)
    tap.source_phase = std::find(phases.begin(), phases.end(), tap.source_phase) - phases.begin();
  std::sort(taps.begin(), taps.end(), [](const Tap& a, const Tap& b) {
    if (a.output_phase != b.output_phase) return a.output_phase < b.output_phase;
    if (a.source_phase != b.source_phase) return a.source_phase < b.source_phase;
    return a.shift < b.shift;
  });
  if (taps.empty()) return;
  const auto [least, greatest] = std::minmax_element(
      taps.begin(), taps.end(), [](const Tap& a, const Tap& b) { return a.shift < b.shift; });
  low = least->shift, high = greatest->shift;
}

void Axis::take_apart() {
  std::vector<int64_t> places;
  for (const Tap& tap : taps)
    places.push_back(tap.shift * stride + source_phases[size_t(tap.source_phase)]);
  std::vector<int64_t> distinct = places;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (size_t i = 0; i < taps.size(); ++i) {
    taps[i].source_phase =
        std::lower_bound(distinct.begin(), distinct.end(), places[i]) - distinct.begin();
    taps[i].shift = 0;
  }
  source_phases = distinct;
  low = high = 0;
}

Range Axis::inside(const Tap& tap) const {
  const int64_t place = tap.shift * stride + source_phases[size_t(tap.source_phase)];
  return {ceil_div(-place, stride), ceil_div(source - place, stride)};
}

Range Axis::interior() const {
  Range all{0, outputs()};
  for (const Tap& tap : taps) {
    const Range range = inside(tap);
    all = {std::max(all.from, range.from), std::min(all.to, range.to)};
  }
  return all;
}

namespace {

constexpr Range kEverywhere{-(int64_t(1) << 40), int64_t(1) << 40};

// Neighbouring taps along one axis, of one phase of outputs and of sources.
struct Neighbours {
  Axis::Tap first;
  std::vector<int64_t> indices;
};

// The first of the runs that so many neighbours are cut into, of a length that kernels take.
int64_t first_run(int64_t count) {
  switch (count) {
    case 1:
    case 2:
    case 3:
    case 5:
    case 7: return count;
    case 4: return 2;
    case 6: return 3;
    case 8: return 5;
    default: return 7;
  }
}

std::vector<Neighbours> neighbours(const Axis& axis, bool flat) {
  // Of flat runs phases and shifts follow each other, and are one number.
  const auto place = [&](const Axis::Tap& tap) {
    return tap.shift * axis.stride + axis.source_phases[size_t(tap.source_phase)];
  };
  std::vector<Axis::Tap> taps = axis.taps;
  if (flat)
    std::stable_sort(taps.begin(), taps.end(), [&](const Axis::Tap& a, const Axis::Tap& b) {
      return a.output_phase != b.output_phase ? a.output_phase < b.output_phase
                                              : place(a) < place(b);
    });
  std::vector<Neighbours> found;
  for (size_t i = 0; i < taps.size();) {
    const Axis::Tap& first = taps[i];
    int64_t count = 1;
    for (; i + count < taps.size(); ++count) {
      const Axis::Tap& next = taps[i + count];
      const bool follows =
          flat ? place(next) == place(first) + count
               : next.source_phase == first.source_phase && next.shift == first.shift + count;
      if (next.output_phase != first.output_phase || !follows) break;
    }
    for (int64_t at = 0, size; at < count; at += size) {
      size = flat ? count : first_run(count - at);
      Neighbours run{taps[i + at], {}};
      for (int64_t k = 0; k < size; ++k) run.indices.push_back(taps[i + at + k].index);
      found.push_back(run);
    }
    i += count;
  }
  return found;
}

}  // namespace

Runs::Runs(const Axis (&axes)[3], const Correlation& n) {
  const Axis &depth = axes[0], &height = axes[1], &width = axes[2];
  const Layout& layout = n.layout;
  struct Placed {
    int64_t phase;
    Run run;
    std::vector<int64_t> taps;
  };
  std::vector<Placed> placed;
  const auto phase_of = [&](int axis, const Axis::Tap& tap) {
    return layout.phase_sizes[axis] * (n.in_place || axis == 2
                                           ? axes[axis].source_phases[size_t(tap.source_phase)]
                                           : tap.source_phase);
  };
  const auto inside = [&](const Axis& axis, const Axis::Tap& tap) {
    return n.in_place ? axis.inside(tap) : kEverywhere;
  };
  // Runs of the same columns follow each other.
  for (const Neighbours& x : neighbours(width, n.flat))
    for (const Axis::Tap& z : depth.taps)
      for (const Axis::Tap& y : height.taps) {
        const int64_t row = y.shift - (n.in_place ? 0 : height.low);
        const int64_t column = x.first.shift - (n.in_place ? 0 : width.low);
        const int64_t source = phase_of(0, z) + phase_of(1, y) + phase_of(2, x.first) +
                               row * layout.row_size + column * layout.column_size;
        std::vector<int64_t> taps;
        for (int64_t index : x.indices)
          taps.push_back((z.index * height.size + y.index) * width.size + index);
        const int64_t of_outputs =
            (z.output_phase * height.spread + y.output_phase) * width.spread + x.first.output_phase;
        placed.push_back({of_outputs,
                          {source,
                           int64_t(taps.size()),
                           {inside(depth, z), inside(height, y), inside(width, x.first)}},
                          taps});
      }
  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return a.phase != b.phase ? a.phase < b.phase : a.run.taps > b.run.taps;
  });
  const int64_t phases = depth.spread * height.spread * width.spread;
  size_t next = 0;
  for (int64_t phase = 0; phase <= phases; ++phase) {
    for (; next < placed.size() && placed[next].phase < phase; ++next) {
      runs.push_back(placed[next].run);
      filter_taps.insert(filter_taps.end(), placed[next].taps.begin(), placed[next].taps.end());
    }
    first.push_back(int64_t(runs.size()));
    first_tap.push_back(int64_t(filter_taps.size()));
  }
}

Split::Split(int64_t count, int64_t most)
    : count(count), parts(std::max<int64_t>(1, ceil_div(count, std::max<int64_t>(1, most)))) {}

}  // namespace grouped_conv
