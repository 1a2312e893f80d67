// Lanes are neighbouring filters of one group; each source number is broadcast to all of them.
//
// The scratch holds the channels of one group, pixel after pixel, with zeros where the image ends:
//   y[column][filter] += source[run + column + tap][c] * filter[run][c][tap][filter].
#pragma once

#include "walk.h"

namespace grouped_conv {
namespace {

// Columns of a tile that is so many vectors of filters wide.
constexpr int64_t wide_columns(int64_t vectors) {
  return kRegisters == 32 ? (vectors == 1 ? 14 : vectors == 2 ? 12 : vectors == 3 ? 8 : 6)
                          : (vectors == 1 ? 8 : vectors == 2 ? 5 : vectors == 3 ? 4 : 3);
}
constexpr int64_t kMostWideVectors = 4;

template <class A, class S>
INLINE void copy_channels(const S* from, int64_t count, A* to) {
  constexpr int64_t L = kLanes<A>;
  int64_t c = 0;
  for (; c + L <= count; c += L) store<A>(to + c, load<A>(from + c));
  for (; c < count; ++c) to[c] = to_float(from[c]);
}

// `channels` channels from `first` on of one row of source pixels.
template <class A, class S>
INLINE void copy_row_of_group(const Correlation& n, int64_t first, int64_t channels,
                              const SourceRow& row, A* scratch) {
  A* target = scratch + row.target;
  const int64_t column = n.layout.column_size;
  for (A* to = target; to < target + row.from * column; ++to) *to = 0;
  for (A* to = target + row.to * column; to < target + row.columns * column; ++to) *to = 0;
  const int64_t all = n.groups * n.inputs;
  const S* from = static_cast<const S*>(n.x) + row.pixel * all + first;
  for (int64_t i = row.from; i < row.to; ++i)
    copy_channels<A>(from + i * row.step * all, channels, target + i * column);
}

// What a tile is made of.
struct WideRuns {
  const Run* runs;
  int64_t count;
  int64_t channels;
  int64_t column;  // numbers from one column of the source to the next
};

template <class A, int64_t K, int64_t T, int64_t V>
INLINE const A* add_wide_run(Vector<A> (&s)[T][V], const WideRuns& n, const A* source, const A* filter) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t c = 0; c < n.channels; ++c, ++source, filter += K * V * L) {
    Vector<A> f[K][V];
    UNROLL for (int64_t k = 0; k < K; ++k) {
      UNROLL for (int64_t v = 0; v < V; ++v) {
        f[k][v] = load_aligned<A>(filter + (k * V + v) * L);
      }
    }
    const A* p = source;
    UNROLL for (int64_t j = 0; j < T + K - 1; ++j) {
      const Vector<A> b = broadcast<A>(*p);
      p += n.column;
      UNROLL for (int64_t k = 0; k < K; ++k) {
        const int64_t t = j - k;
        if (t >= 0 && t < T)
          UNROLL for (int64_t v = 0; v < V; ++v) { s[t][v] += b * f[k][v]; }
      }
    }
  }
  return filter;
}

// A tile of T columns and V vectors of filters.
template <class A, int64_t T, int64_t V>
void correlate_wide_tile(const WideRuns& n, const A* source, const A* filter, A* y, int64_t step) {
  Vector<A> s[T][V] = {};
  for (const Run* run = n.runs; run != n.runs + n.count; ++run) {
    const A* p = source + run->source;
    if constexpr (V == 1) {
      switch (run->taps) {
        case 1: filter = add_wide_run<A, 1, T, V>(s, n, p, filter); break;
        case 2: filter = add_wide_run<A, 2, T, V>(s, n, p, filter); break;
        case 3: filter = add_wide_run<A, 3, T, V>(s, n, p, filter); break;
        case 4: filter = add_wide_run<A, 4, T, V>(s, n, p, filter); break;
        case 5: filter = add_wide_run<A, 5, T, V>(s, n, p, filter); break;
        case 6: filter = add_wide_run<A, 6, T, V>(s, n, p, filter); break;
        default: filter = add_wide_run<A, 7, T, V>(s, n, p, filter);
      }
    } else {
      filter = add_wide_run<A, 1, T, V>(s, n, p, filter);
    }
  }
  UNROLL for (int64_t t = 0; t < T; ++t) {
    UNROLL for (int64_t v = 0; v < V; ++v) {
      store<A>(y + t * step + v * kLanes<A>, s[t][v]);
    }
  }
}

template <class A>
using WideTile = void (*)(const WideRuns&, const A*, const A*, A*, int64_t);

template <class A, int64_t T, int64_t V>
constexpr WideTile<A> wide_entry() {
  if constexpr (T <= wide_columns(V)) return correlate_wide_tile<A, T, V>;
  return nullptr;
}
template <class A, int64_t T>
struct WideTiles {
  static constexpr WideTile<A> of_vectors[kMostWideVectors] = {
      wide_entry<A, T, 1>(), wide_entry<A, T, 2>(), wide_entry<A, T, 3>(), wide_entry<A, T, 4>()};
};
template <class A>
constexpr const WideTile<A>* kWideTiles[14] = {
    WideTiles<A, 1>::of_vectors,  WideTiles<A, 2>::of_vectors,  WideTiles<A, 3>::of_vectors,
    WideTiles<A, 4>::of_vectors,  WideTiles<A, 5>::of_vectors,  WideTiles<A, 6>::of_vectors,
    WideTiles<A, 7>::of_vectors,  WideTiles<A, 8>::of_vectors,  WideTiles<A, 9>::of_vectors,
    WideTiles<A, 10>::of_vectors, WideTiles<A, 11>::of_vectors, WideTiles<A, 12>::of_vectors,
    WideTiles<A, 13>::of_vectors, WideTiles<A, 14>::of_vectors};

// `parts` blocks of `vectors` vectors of filters from filter `first` of a group on.
template <class A, class S, class R>
void correlate_wide(const Correlation& n, const Block& block, int64_t group, int64_t first,
                    int64_t vectors, int64_t parts, const A* filters, A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const int64_t channels = n.groups * n.outputs, width = vectors * L;
  const int64_t packed = n.first_tap[n.phases] * n.inputs * width;
  R* y = static_cast<R*>(const_cast<void*>(n.y)) + group * n.outputs;
  alignas(64) A buffer[14 * kMostWideVectors * L];
  walk(
      n, block,
      [&](const SourceRow& row) {
        if (!n.direct) copy_row_of_group<A, S>(n, group * n.inputs, n.inputs, row, scratch);
      },
      [&](const Row& row) {
        const WideRuns runs{n.runs + n.first[row.phase], n.first[row.phase + 1] - n.first[row.phase],
                            n.inputs, n.layout.column_size};
        const A* source = scratch + row.source;
        if (n.direct) source = direct_source<A>(n, block.image, row.at) + group * n.inputs;
        const int64_t step = n.axes[2].spread * channels;
        const int64_t tiles = divide_up(row.columns, wide_columns(vectors));
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t filter = first + part * width;
          const int64_t lanes = least(n.outputs - filter, width);
          R* to = y + row.pixel * channels + filter;
          const A* packed_filters = filters + part * packed + n.first_tap[row.phase] * n.inputs * width;
          for (int64_t i = 0; i < tiles; ++i) {
            const int64_t at = row.columns * i / tiles, size = row.columns * (i + 1) / tiles - at;
            const auto tile = kWideTiles<A>[size - 1][vectors - 1];
            if (__is_same(A, R) && lanes == width) {
              tile(runs, source + at * n.layout.column_size, packed_filters,
                   reinterpret_cast<A*>(to + at * step), step);
            } else {
              tile(runs, source + at * n.layout.column_size, packed_filters, buffer, width);
              for (int64_t t = 0; t < size; ++t)
                for (int64_t v = 0; v * L < lanes; ++v)
                  store_up_to<A>(to + (at + t) * step + v * L,
                                 load_aligned<A>(buffer + t * width + v * L), lanes - v * L);
            }
          }
        }
      });
}

// Packed as (run, channel, tap, filter). Returns whether all are finite.
template <class A, class S>
bool pack_wide(const Correlation& n, const Filters& w, int64_t group, int64_t first, int64_t vectors,
               A* packed) {
  constexpr int64_t L = kLanes<A>;
  const int64_t width = n.groups * w.filters, lanes = n.outputs - first;
  const S* data = static_cast<const S*>(w.data);
  const int64_t* taps = n.filter_taps;
  bool finite = true;
  for (const Run* run = n.runs; run != n.runs + n.run_count; taps += run->taps, ++run)
    for (int64_t c = 0; c < n.inputs; ++c)
      for (int64_t k = 0; k < run->taps; ++k)
        for (int64_t v = 0; v < vectors; ++v, packed += L) {
          const int64_t some = greatest<int64_t>(0, least(L, lanes - v * L));
          Vector<A> numbers = {};
          if (!w.exchanged) {
            numbers = load_up_to<A>(
                data + (taps[k] * w.channels + c) * width + group * w.filters + first + v * L, some);
          } else {
            const S* at = data + (taps[k] * w.channels + first + v * L) * width + group * w.filters + c;
            A buffer[L] = {};
            for (int64_t i = 0; i < some; ++i) buffer[i] = to_float(at[i * width]);
            numbers = load<A>(buffer);
          }
          finite &= is_finite<A>(numbers);
          store_aligned<A>(packed, numbers);
        }
  return finite;
}

// sums[c][v] += source[row][column][c] * y[row][column][v], for C channels and V vectors of filters.
template <class A, int64_t C, int64_t V>
void reduce_wide_tile(const A* source, const A* y, const Rows& rows, int64_t source_column,
                      int64_t y_column, A* sums) {
  constexpr int64_t L = kLanes<A>;
  Vector<A> s[C][V];
  UNROLL for (int64_t c = 0; c < C; ++c) {
    UNROLL for (int64_t v = 0; v < V; ++v) { s[c][v] = load_aligned<A>(sums + (c * V + v) * L); }
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    const A *p = source + row * rows.source_step, *q = y + row * rows.y_step;
    for (int64_t column = 0; column < rows.columns; ++column, p += source_column, q += y_column) {
      Vector<A> f[V];
      UNROLL for (int64_t v = 0; v < V; ++v) { f[v] = load<A>(q + v * L); }
      UNROLL for (int64_t c = 0; c < C; ++c) {
        const Vector<A> b = broadcast<A>(p[c]);
        UNROLL for (int64_t v = 0; v < V; ++v) { s[c][v] += b * f[v]; }
      }
    }
  }
  UNROLL for (int64_t c = 0; c < C; ++c) {
    UNROLL for (int64_t v = 0; v < V; ++v) { store_aligned<A>(sums + (c * V + v) * L, s[c][v]); }
  }
}

// Channels of a tile that is so many vectors of filters wide.
constexpr int64_t wide_channels(int64_t vectors) { return (kRegisters == 32 ? 24 : 12) / vectors; }

template <class A>
using ReduceWideTile = void (*)(const A*, const A*, const Rows&, int64_t, int64_t, A*);

template <class A, int64_t C, int64_t V>
constexpr ReduceWideTile<A> reduce_wide_entry() {
  if constexpr (C <= wide_channels(V)) return reduce_wide_tile<A, C, V>;
  return nullptr;
}
template <class A, int64_t C>
struct ReduceWideTiles {
  static constexpr ReduceWideTile<A> of_vectors[kMostWideVectors] = {
      reduce_wide_entry<A, C, 1>(), reduce_wide_entry<A, C, 2>(), reduce_wide_entry<A, C, 3>(),
      reduce_wide_entry<A, C, 4>()};
};
template <class A>
constexpr const ReduceWideTile<A>* kReduceWideTiles[24] = {
    ReduceWideTiles<A, 1>::of_vectors,  ReduceWideTiles<A, 2>::of_vectors,
    ReduceWideTiles<A, 3>::of_vectors,  ReduceWideTiles<A, 4>::of_vectors,
    ReduceWideTiles<A, 5>::of_vectors,  ReduceWideTiles<A, 6>::of_vectors,
    ReduceWideTiles<A, 7>::of_vectors,  ReduceWideTiles<A, 8>::of_vectors,
    ReduceWideTiles<A, 9>::of_vectors,  ReduceWideTiles<A, 10>::of_vectors,
    ReduceWideTiles<A, 11>::of_vectors, ReduceWideTiles<A, 12>::of_vectors,
    ReduceWideTiles<A, 13>::of_vectors, ReduceWideTiles<A, 14>::of_vectors,
    ReduceWideTiles<A, 15>::of_vectors, ReduceWideTiles<A, 16>::of_vectors,
    ReduceWideTiles<A, 17>::of_vectors, ReduceWideTiles<A, 18>::of_vectors,
    ReduceWideTiles<A, 19>::of_vectors, ReduceWideTiles<A, 20>::of_vectors,
    ReduceWideTiles<A, 21>::of_vectors, ReduceWideTiles<A, 22>::of_vectors,
    ReduceWideTiles<A, 23>::of_vectors, ReduceWideTiles<A, 24>::of_vectors};

// Adds one block to sums (tap of a run, channel, filter) of `channels` channels from `first_channel`
// and `vectors` vectors of filters from `first_filter` of a group on.
template <class A, class S>
void reduce_wide(const Correlation& n, const Block& block, int64_t group, int64_t first_channel,
                 int64_t channels, int64_t first_filter, int64_t vectors, A* sums, A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const AxisView &depth = n.axes[0], &height = n.axes[1], &width = n.axes[2];
  const int64_t all = n.groups * n.outputs, filters = vectors * L;
  const int64_t lanes = least(filters, n.outputs - first_filter);
  const bool direct_y = __is_same(A, S) && lanes == filters;
  const int64_t slice = n.layout.slice, columns = counted(width, block.at[2]);
  const int64_t slices = counted(depth, block.at[0]), rows = counted(height, block.at[1]);
  const int64_t some = least(rows, n.rows_at_once);
  A* ys = scratch + (n.direct ? 0 : (depth.block + depth.halo) * slice * n.layout.row_size);
  const int64_t first = group * n.inputs + first_channel;
  int64_t copied = 0;
  for (int64_t z = 0; z < slices; ++z)
    for (int64_t at = 0; at < rows; at += some) {
      const int64_t count = least(some, rows - at);
      const int64_t needed = (z + depth.halo) * slice + at + count + height.halo;
      for (; !n.direct && copied < needed; ++copied)
        if (copied % slice < rows + height.halo)
          copy_sources(n, block, copied / slice, copied % slice, [&](const SourceRow& row) {
            copy_row_of_group<A, S>(n, first, channels, row, scratch);
          });
      const S* y = static_cast<const S*>(n.y) + group * n.outputs + first_filter +
                   (((block.image * depth.output + block.at[0] + z) * height.output + block.at[1] + at) *
                        width.output + block.at[2]) * all;
      for (int64_t i = 0; i < count && !direct_y; ++i)
        for (int64_t j = 0; j < columns; ++j)
          for (int64_t v = 0; v < vectors; ++v)
            store_aligned<A>(ys + ((i * columns + j) * vectors + v) * L,
                             load_up_to<A>(y + (i * width.output + j) * all + v * L,
                                           greatest<int64_t>(0, lanes - v * L)));
      const A* source = scratch + (z * slice + at) * n.layout.row_size;
      Rows met{count, columns, n.layout.row_size, columns * filters};
      int64_t y_column = filters;
      if (n.direct) {
        const int64_t place[3] = {block.at[0] + z, block.at[1] + at, block.at[2]};
        source = direct_source<A>(n, block.image, place) + first;
      }
      const A* cotangent = ys;
      if (direct_y) {
        cotangent = reinterpret_cast<const A*>(y);
        met.y_step = width.output * all;
        y_column = all;
      }
      const int64_t parts = divide_up(channels, wide_channels(vectors));
      A* to = sums;
      for (const Run* run = n.runs; run != n.runs + n.run_count; ++run)
        for (int64_t k = 0; k < run->taps; ++k)
          for (int64_t i = 0; i < parts; ++i) {
            const int64_t c = channels * i / parts, size = channels * (i + 1) / parts - c;
            kReduceWideTiles<A>[size - 1][vectors - 1](
                source + run->source + k * n.layout.column_size + c, cotangent, met,
                n.layout.column_size, y_column, to);
            to += size * filters;
          }
    }
}

}  // namespace
}  // namespace grouped_conv
