// Lanes are neighbouring output channels, of as many groups as they reach over.
//
// The scratch holds, for each channel c of a group, rows of vectors whose lane i is channel c of the
// group of output channel i, with zeros where the image ends. So depthwise convolutions, channel
// multipliers and groups of a few channels are one kernel, of the same two nested sums:
//   y[column] += source[run + column + tap] * filter[run][tap],
// in which a run is a row of taps of one channel.
#pragma once

#include "walk.h"

namespace grouped_conv {
namespace {

constexpr int64_t kColumns = kRegisters == 32 ? 14 : 8;

// Where the lanes of a block find the channels that they are made of.
template <class A>
struct LaneSources {
  LaneSources(const Correlation& n, int64_t lane_block) {
    const int64_t first = lane_block * kLanes<A>;
    lanes = least(kLanes<A>, n.groups * n.outputs - first);
    start = first / n.outputs * n.inputs;
    const int64_t end = (first + lanes - 1) / n.outputs * n.inputs + n.inputs;
    vectors = divide_up(end - start, kLanes<A>);
    last = end - start - (vectors - 1) * kLanes<A>;
    plain = n.inputs == 1 && n.outputs == 1;
    if (plain) return;
    for (int64_t i = 0; i < kLanes<A>; ++i) {
      const int64_t own = (first + least(i, lanes - 1)) / n.outputs * n.inputs - start;
      for (int64_t c = 0; c < n.inputs; ++c) index[c][i] = int32_t(own + c);
    }
  }
  int64_t lanes;    // in use
  int64_t start;    // first channel
  int64_t vectors;  // of channels
  int64_t last;     // channels in the last one
  bool plain;       // lane i is channel i
  int32_t index[kMostNarrowInputs][kLanes<A>];  // of channel c of the group of lane i
};

template <class A, class S>
INLINE void copy_row(const Correlation& n, const LaneSources<A>& lanes, const SourceRow& row,
                     A* scratch) {
  constexpr int64_t L = kLanes<A>;
  A* target = scratch + row.target;
  for (int64_t c = 0; c < n.inputs; ++c) {
    A* to = target + c * n.layout.channel_size;
    for (int64_t i = 0; i < row.from; ++i) store_aligned<A>(to + i * L, Vector<A>{});
    for (int64_t i = row.to; i < row.columns; ++i) store_aligned<A>(to + i * L, Vector<A>{});
  }
  const int64_t step = row.step * n.groups * n.inputs;
  const S* from = static_cast<const S*>(n.x) + row.pixel * n.groups * n.inputs + lanes.start;
  if (lanes.plain && lanes.last == L) {
    for (int64_t i = row.from; i < row.to; ++i) store_aligned<A>(target + i * L, load<A>(from + i * step));
  } else if (lanes.plain) {
    for (int64_t i = row.from; i < row.to; ++i)
      store_aligned<A>(target + i * L, load_some<A>(from + i * step, lanes.last));
  } else {
    Vector<A> vectors[kMostPicked];
    for (int64_t i = row.from; i < row.to; ++i) {
      const S* pixel = from + i * step;
      for (int64_t v = 0; v + 1 < lanes.vectors; ++v) vectors[v] = load<A>(pixel + v * L);
      vectors[lanes.vectors - 1] = load_up_to<A>(pixel + (lanes.vectors - 1) * L, lanes.last);
      for (int64_t c = 0; c < n.inputs; ++c)
        store_aligned<A>(target + c * n.layout.channel_size + i * L,
                         pick<A>(vectors, lanes.vectors, lanes.index[c]));
    }
  }
}

// s[t] += source[t + k] * filter[k] for the K taps of a run.
template <class A, int64_t K, int64_t T>
INLINE void add_run(Vector<A> (&s)[T], const A* source, const A* filter) {
  Vector<A> f[K];
  UNROLL for (int64_t k = 0; k < K; ++k) { f[k] = load_aligned<A>(filter + k * kLanes<A>); }
  UNROLL for (int64_t j = 0; j < T + K - 1; ++j) {
    const Vector<A> v = load_aligned<A>(source + j * kLanes<A>);
    UNROLL for (int64_t k = 0; k < K; ++k) {
      const int64_t t = j - k;
      if (t >= 0 && t < T) s[t] += v * f[k];
    }
  }
}

// A tile of T columns: y[t * step] = sums over `count` runs.
template <class A, int64_t T>
void correlate_tile(const Run* runs, int64_t count, const A* source, const A* filter, A* y,
                    int64_t step) {
  Vector<A> s[T] = {};
  for (const Run* run = runs; run != runs + count; ++run) {
    const A* p = source + run->source;
    switch (run->taps) {
      case 1: add_run<A, 1, T>(s, p, filter); break;
      case 2: add_run<A, 2, T>(s, p, filter); break;
      case 3: add_run<A, 3, T>(s, p, filter); break;
      case 4: add_run<A, 4, T>(s, p, filter); break;
      case 5: add_run<A, 5, T>(s, p, filter); break;
      case 6: add_run<A, 6, T>(s, p, filter); break;
      default: add_run<A, 7, T>(s, p, filter);
    }
    filter += run->taps * kLanes<A>;
  }
  UNROLL for (int64_t t = 0; t < T; ++t) { store<A>(y + t * step, s[t]); }
}

template <class A>
using CorrelateTile = void (*)(const Run*, int64_t, const A*, const A*, A*, int64_t);

template <class A, int64_t... T>
struct CorrelateTiles {
  static constexpr CorrelateTile<A> table[] = {correlate_tile<A, T>...};
};
#if defined(__AVX512F__) || defined(__aarch64__)
template <class A>
using NarrowTiles = CorrelateTiles<A, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#else
template <class A>
using NarrowTiles = CorrelateTiles<A, 1, 2, 3, 4, 5, 6, 7, 8>;
#endif

template <class A, class S, class R>
void correlate_narrow(const Correlation& n, const Block& block, int64_t lane_block,
                      const A* filters, A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const LaneSources<A> lanes(n, lane_block);
  const int64_t channels = n.groups * n.outputs;
  R* y = static_cast<R*>(const_cast<void*>(n.y)) + lane_block * L;
  alignas(64) A buffer[kColumns * L];
  walk(
      n, block, [&](const SourceRow& row) { copy_row<A, S>(n, lanes, row, scratch); },
      [&](const Row& row) {
        const Run* runs = n.runs + n.first[row.phase];
        const int64_t count = n.first[row.phase + 1] - n.first[row.phase];
        const A* filter = filters + n.first_tap[row.phase] * L;
        const int64_t step = n.axes[2].spread * channels;
        R* to = y + row.pixel * channels;
        const int64_t parts = divide_up(row.columns, kColumns);
        for (int64_t i = 0; i < parts; ++i) {
          const int64_t at = row.columns * i / parts, size = row.columns * (i + 1) / parts - at;
          const auto tile = NarrowTiles<A>::table[size - 1];
          const A* source = scratch + row.source + at * L;
          if (__is_same(A, R) && lanes.lanes == L) {
            tile(runs, count, source, filter, reinterpret_cast<A*>(to + at * step), step);
          } else {
            tile(runs, count, source, filter, buffer, L);
            for (int64_t t = 0; t < size; ++t)
              store_up_to<A>(to + (at + t) * step, load_aligned<A>(buffer + t * L), lanes.lanes);
          }
        }
      });
}

// Packed as (run, tap, lane). Returns whether all are finite.
template <class A, class S>
bool pack_narrow(const Correlation& n, const Filters& w, int64_t lane_block, A* packed) {
  constexpr int64_t L = kLanes<A>;
  const int64_t first = lane_block * L, lanes = least(L, n.groups * n.outputs - first);
  const int64_t width = n.groups * w.filters;
  const S* data = static_cast<const S*>(w.data);
  const int64_t* tap = n.filter_taps;
  bool finite = true;
  for (const Run* run = n.runs; run != n.runs + n.run_count; ++run)
    for (int64_t k = 0; k < run->taps; ++k, ++tap, packed += L) {
      Vector<A> v = {};
      if (!w.exchanged) {
        v = load_up_to<A>(data + (*tap * w.channels + run->channel) * width + first, lanes);
      } else {
        const S* at = data + *tap * w.channels * width + run->channel;
        A buffer[L] = {};
        for (int64_t i = 0; i < lanes; ++i) {
          const int64_t group = (first + i) / n.outputs, own = (first + i) % n.outputs;
          buffer[i] = to_float(at[own * width + group * w.filters]);
        }
        v = load<A>(buffer);
      }
      finite &= is_finite<A>(v);
      store_aligned<A>(packed, v);
    }
  return finite;
}

// sums[i][k] += source_i[k + column] * y[column], over rows, for the K taps of each of N runs.
template <class A, int64_t N, int64_t K>
void reduce_tile(const Run* runs, const A* source, const A* y, const Rows& rows, A* sums) {
  constexpr int64_t L = kLanes<A>;
  Vector<A> s[N][K];
  UNROLL for (int64_t i = 0; i < N; ++i) {
    UNROLL for (int64_t k = 0; k < K; ++k) { s[i][k] = load_aligned<A>(sums + (i * K + k) * L); }
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    const A* p[N];
    UNROLL for (int64_t i = 0; i < N; ++i) { p[i] = source + row * rows.source_step + runs[i].source; }
    const A* q = y + row * rows.y_step;
    for (const A* end = q + rows.columns * L; q != end; q += L) {
      const Vector<A> v = load_aligned<A>(q);
      UNROLL for (int64_t i = 0; i < N; ++i) {
        UNROLL for (int64_t k = 0; k < K; ++k) { s[i][k] += load_aligned<A>(p[i] + k * L) * v; }
        p[i] += L;
      }
    }
  }
  UNROLL for (int64_t i = 0; i < N; ++i) {
    UNROLL for (int64_t k = 0; k < K; ++k) { store_aligned<A>(sums + (i * K + k) * L, s[i][k]); }
  }
}

template <class A>
using ReduceTile = void (*)(const Run*, const A*, const A*, const Rows&, A*);

// Sums of a tile, and runs of it: their places are in general registers.
constexpr int64_t kReduced = kRegisters == 32 ? 24 : 12, kRunsReduced = 6;

template <class A, int64_t N, int64_t K>
constexpr ReduceTile<A> reduce_entry() {
  if constexpr (N * K <= kReduced) return reduce_tile<A, N, K>;
  return nullptr;
}
template <class A, int64_t K>
struct ReduceTiles {
  static constexpr ReduceTile<A> of_runs[kRunsReduced] = {
      reduce_entry<A, 1, K>(), reduce_entry<A, 2, K>(), reduce_entry<A, 3, K>(),
      reduce_entry<A, 4, K>(), reduce_entry<A, 5, K>(), reduce_entry<A, 6, K>()};
};
template <class A>
constexpr const ReduceTile<A>* kReduceTiles[kLongestRun] = {
    ReduceTiles<A, 1>::of_runs, ReduceTiles<A, 2>::of_runs, ReduceTiles<A, 3>::of_runs,
    ReduceTiles<A, 4>::of_runs, ReduceTiles<A, 5>::of_runs, ReduceTiles<A, 6>::of_runs,
    ReduceTiles<A, 7>::of_runs};

// Adds what some rows give to all sums (run, tap, lane).
template <class A>
INLINE void reduce_rows(const Correlation& n, const A* source, const A* y, const Rows& rows, A* sums) {
  for (int64_t i = 0; i < n.run_count;) {
    const int64_t taps = n.runs[i].taps;
    const int64_t most = least(kRunsReduced, kReduced / taps);
    int64_t alike = 1;
    while (i + alike < n.run_count && n.runs[i + alike].taps == taps) ++alike;
    const int64_t parts = divide_up(alike, most);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t size = alike * (part + 1) / parts - alike * part / parts;
      kReduceTiles<A>[taps - 1][size - 1](n.runs + i, source, y, rows, sums);
      i += size;
      sums += size * taps * kLanes<A>;
    }
  }
}

// Adds one block to sums (run, tap, lane).
template <class A, class S>
void reduce_narrow(const Correlation& n, const Block& block, int64_t lane_block, A* sums, A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const LaneSources<A> lanes(n, lane_block);
  const int64_t channels = n.groups * n.outputs, slice = n.layout.slice;
  const int64_t slices = counted(n.axes[0], block.at[0]), height = counted(n.axes[1], block.at[1]);
  const int64_t columns = counted(n.axes[2], block.at[2]);
  const int64_t some = least(height, n.rows_at_once);
  A* ys = scratch + (n.axes[0].block + n.axes[0].halo) * slice * n.layout.row_size;
  int64_t copied = 0;
  for (int64_t z = 0; z < slices; ++z)
    for (int64_t at = 0; at < height; at += some) {
      const int64_t count = least(some, height - at);
      const int64_t needed = (z + n.axes[0].halo) * slice + at + count + n.axes[1].halo;
      for (; copied < needed; ++copied)
        if (copied % slice < height + n.axes[1].halo)
          copy_sources(n, block, copied / slice, copied % slice,
                       [&](const SourceRow& row) { copy_row<A, S>(n, lanes, row, scratch); });
      for (int64_t i = 0; i < count; ++i) {
        const int64_t pixel = ((block.image * n.axes[0].output + block.at[0] + z) * n.axes[1].output +
                               block.at[1] + at + i) * n.axes[2].output + block.at[2];
        const S* from = static_cast<const S*>(n.y) + pixel * channels + lane_block * L;
        A* to = ys + i * columns * L;
        for (int64_t j = 0; j < columns; ++j)
          store_aligned<A>(to + j * L, load_up_to<A>(from + j * channels, lanes.lanes));
      }
      reduce_rows<A>(n, scratch + (z * slice + at) * n.layout.row_size, ys,
                     Rows{count, columns, n.layout.row_size, columns * L}, sums);
    }
}

}  // namespace
}  // namespace grouped_conv
