// The micro-kernels: tiles of sums in registers.
//
// A vector holds F filters of each of M neighbouring groups, F * M lanes, filter after filter:
//   lane f * M + m  is filter f of group m.
// In the scratch the M groups' numbers of a channel lie side by side, so that one load repeats them
// for all F filters. M = 1 is a convolution of wide groups, which broadcasts single numbers; with
// M = lanes it is a depthwise one, which loads whole vectors; between them lie groups of a few
// channels. Nothing else distinguishes them.
#pragma once

#include "vectors.h"

namespace grouped_conv {
namespace {

// M numbers, repeated over all lanes.
template <class A, int64_t M>
INLINE Vector<A> repeat(const A* p) {
  constexpr int64_t L = kLanes<A>;
  if constexpr (M == 1) {
    return broadcast<A>(*p);
  } else if constexpr (M == L) {
    return load<A>(p);
  } else {
    return repeat_lanes<A, M>(load_plain<A, M>(p), Sequence<L>());
  }
}

// What tiles of a row of outputs have in common.
template <class A>
struct TileRow {
  const Run* runs;
  int64_t count;
  int64_t channels;     // of each run
  bool flat;            // as in Correlation
  int64_t column;       // numbers from one column of the sources to the next
  const A* filters;     // as they are packed
  int64_t row;          // numbers from one row of sources to the next, for tiles of two
  int64_t step, y_row;  // likewise of y
  // For tiles at borders: the first output of the row and column of the tile. Not a copy of the
  // row's: one by wider loads would wait for all stores before.
  const int64_t* at;
  int64_t first;
};

INLINE bool contains(const Range& range, int64_t i) { return i >= range.from && i < range.to; }

// Columns of a tile of so many vectors of filters.
constexpr int64_t most_columns(int64_t vectors) {
  if (kRegisters == 32) return vectors <= 2 ? 14 : 24 / vectors;
  return vectors == 1 ? 8 : vectors == 2 ? 6 : vectors == 3 ? 4 : 2;
}

// Sums of about so many products are added to a total, so that they round less than one long chain,
// and that many filters stay in the first-level cache for all tiles of some rows.
constexpr int64_t kChain = 72;
// Channels of a run of so many taps that make such a chain.
constexpr int64_t kChannelsOfChain[] = {0, 72, 36, 24, 0, 14, 0, 10};

// s[t] += source[t + k] * filter[k] for the K taps of a run, over channels, in R rows. At a border
// B there is one channel, and sources outside of the image are left out.
template <class A, int64_t M, int64_t K, bool B, int64_t R, int64_t T, int64_t V>
INLINE const A* add_run(Vector<A> (&s)[R][T][V], const TileRow<A>& row, const Run& run,
                        int64_t channels, const A* source, const A* filter) {
  constexpr int64_t L = kLanes<A>;
  const int64_t column = row.column;
  const int64_t from = run.inside[2].from - row.first;
  const uint64_t inside = uint64_t(run.inside[2].to - run.inside[2].from);
  for (int64_t c = 0; c < (B ? 1 : channels); ++c, source += M, filter += K * V * L) {
    Vector<A> f[K][V];
    UNROLL_FOR (int64_t k = 0; k < K; ++k)
      UNROLL_FOR (int64_t v = 0; v < V; ++v) f[k][v] = load_aligned<A>(filter + (k * V + v) * L);
    UNROLL_FOR (int64_t r = 0; r < R; ++r) {
      if (B && !contains(run.inside[1], row.at[1] + r)) continue;
      const A* p = source + r * row.row;
      UNROLL_FOR (int64_t j = 0; j < T + K - 1; ++j, p += column) {
        if (B && uint64_t(j - from) >= inside) continue;
        const Vector<A> x = repeat<A, M>(p);
        UNROLL_FOR (int64_t k = 0; k < K; ++k) {
          if (j - k < 0 || j - k >= T) continue;
          UNROLL_FOR (int64_t v = 0; v < V; ++v) s[r][j - k][v] += x * f[k][v];
        }
      }
    }
  }
  return filter;
}

// R rows of T columns, and V vectors of filters, of flat runs if there are several, added to `sums`
// if there are any. B, some taps may lie outside of the image.
template <class A, int64_t M, int64_t R, int64_t T, int64_t V, bool B>
void correlate_tile(const TileRow<A>& row, const A* source, const A* sums, bool is_last, A* y) {
  constexpr int64_t L = kLanes<A>;
  Vector<A> s[R][T][V] = {};
  const A* filter = row.filters;
  for (const Run* run = row.runs; run != row.runs + row.count; ++run) {
    if (B && !contains(run->inside[0], row.at[0])) {
      filter += row.channels * run->taps * V * L;
      continue;
    }
    const A* p = source + run->source;
    if constexpr (V == 1) {
      switch (row.flat ? 1 : run->taps) {
        case 1:
          filter = add_run<A, M, 1, B>(s, row, *run, row.channels * run->taps, p, filter);
          break;
        case 2: filter = add_run<A, M, 2, B>(s, row, *run, row.channels, p, filter); break;
        case 3: filter = add_run<A, M, 3, B>(s, row, *run, row.channels, p, filter); break;
        case 5: filter = add_run<A, M, 5, B>(s, row, *run, row.channels, p, filter); break;
        default: filter = add_run<A, M, 7, B>(s, row, *run, row.channels, p, filter);
      }
    } else {
      filter = add_run<A, M, 1, B>(s, row, *run, row.channels * run->taps, p, filter);
    }
  }
  if (sums) {
    UNROLL_FOR (int64_t r = 0; r < R; ++r)
      UNROLL_FOR (int64_t t = 0; t < T; ++t)
        UNROLL_FOR (int64_t v = 0; v < V; ++v)
          s[r][t][v] += load_aligned<A>(sums + ((r * T + t) * V + v) * L);
  }
  const int64_t step = row.step, y_row = row.y_row;
  UNROLL_FOR (int64_t r = 0; r < R; ++r)
    UNROLL_FOR (int64_t t = 0; t < T; ++t)
      UNROLL_FOR (int64_t v = 0; v < V; ++v)
        store<A>(y + r * y_row + t * step + v * L,
                 V == 1 && is_last ? filters_apart<A, M>(s[r][t][v]) : s[r][t][v]);
}

template <class A>
using CorrelateTile = void (*)(const TileRow<A>&, const A*, const A*, bool, A*);

// Sizes of tiles, in columns. A row of any other size ends with a tile that overlaps the one
// before.
constexpr int64_t kTileColumns[] = {1, 2, 4, 6, 7, 8, 10, 14};
constexpr int64_t kTileSizes = 8;
// Rows that are too short for a tile of their own, in the last layers of networks, go in pairs.
constexpr int64_t kPairedColumns = 7;

// Float64 has only tiles that are a vector wide: fewer to compile, for numbers few compute with.
// Those of 2 and 4 groups are as `Plan::merge_groups` needs them.
template <class A, int64_t M>
constexpr bool has_tiles(int64_t vectors) {
  return vectors <= (sizeof(A) == 4 ? kMostVectors : 1) &&
         (M == 1 || M == kLanes<A> || is_merged_tile(M, vectors));
}

template <class A, int64_t M, int64_t R, int64_t T, int64_t V, bool B>
constexpr CorrelateTile<A> correlate_entry() {
  if constexpr (R * T <= most_columns(V) && has_tiles<A, M>(V))
    return correlate_tile<A, M, R, T, V, B>;
  return nullptr;
}
// Those of one row, and the pair; null where they would not fit the registers.
template <class A, int64_t M, int64_t V, bool B>
struct CorrelateTiles {
  template <int64_t R, int64_t T>
  static constexpr CorrelateTile<A> of = correlate_entry<A, M, R, T, V, B>();
  static constexpr CorrelateTile<A> all[kTileSizes + 1] = {
      of<1, 1>,  of<1, 2>,  of<1, 4>,
      of<1, 6>,  of<1, 7>,  of<1, 8>,
      of<1, 10>, of<1, 14>, of<2, kPairedColumns>};
};
// At borders only depthwise ones are read in place.
template <class A>
constexpr const CorrelateTile<A>* kBorderTiles = CorrelateTiles<A, kLanes<A>, 1, true>::all;

// Some rows of outputs, whose products with sources are summed up.
struct Rows {
  int64_t count, columns;
  int64_t source_row, source_column;  // numbers from one row of sources, one column, to the next
  int64_t y_row, y_column;            // likewise of y
  Range inside;  // columns of outputs, from the first one on, whose first source is there
};

// Sums of a tile.
constexpr int64_t kReduced = kRegisters == 32 ? 24 : 12;

template <class A, int64_t N>
INLINE void add_to(A* sums, const Vector<A> (&s)[N]) {
  UNROLL_FOR (int64_t i = 0; i < N; ++i) {
    A* to = sums + i * kLanes<A>;
    store_aligned<A>(to, load_aligned<A>(to) + s[i]);
  }
}

// sums[j][v] += source[j][column] * y[column][v] over rows, for J neighbouring numbers of M groups,
// channels of a tap after those of the one before it, and V vectors of filters.
template <class A, int64_t M, int64_t J, int64_t V>
void reduce_tile(const A* source, const A* y, const Rows& rows, A* sums) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t row = 0; row < rows.count;) {
    Vector<A> s[J * V] = {};
    for (int64_t chain = 0; row < rows.count && chain < kChain; ++row, chain += rows.columns) {
      const A *p = source + row * rows.source_row, *q = y + row * rows.y_row;
      for (const A* end = q + rows.columns * rows.y_column; q != end;
           p += rows.source_column, q += rows.y_column) {
        Vector<A> f[V];
        UNROLL_FOR (int64_t v = 0; v < V; ++v) f[v] = load<A>(q + v * L);
        UNROLL_FOR (int64_t j = 0; j < J; ++j) {
          const Vector<A> x = repeat<A, M>(p + j * M);
          UNROLL_FOR (int64_t v = 0; v < V; ++v) s[j * V + v] += x * f[v];
        }
      }
    }
    add_to<A>(sums, s);
  }
}

template <class A>
using ReduceTile = void (*)(const A*, const A*, const Rows&, A*);

// Sizes of tiles, in numbers.
constexpr int64_t kTileNumbers[] = {1, 2, 3, 4, 6, 8, 12, 16, 24};
constexpr int64_t kNumberSizes = 9;

template <class A, int64_t M, int64_t J, int64_t V>
constexpr ReduceTile<A> reduce_entry() {
  if constexpr (J * V <= kReduced && has_tiles<A, M>(V)) return reduce_tile<A, M, J, V>;
  return nullptr;
}
template <class A, int64_t M, int64_t V>
struct ReduceTiles {
  static constexpr ReduceTile<A> of_numbers[kNumberSizes] = {
      reduce_entry<A, M, 1, V>(),  reduce_entry<A, M, 2, V>(),  reduce_entry<A, M, 3, V>(),
      reduce_entry<A, M, 4, V>(),  reduce_entry<A, M, 6, V>(),  reduce_entry<A, M, 8, V>(),
      reduce_entry<A, M, 12, V>(), reduce_entry<A, M, 16, V>(), reduce_entry<A, M, 24, V>()};
};

// The same of depthwise convolutions, for N runs of K taps that have the same columns: each source
// meets the last K outputs, which stay in registers.
template <class A, int64_t N, int64_t K>
void reduce_runs(const Run* runs, const A* source, const A* y, const Rows& rows, A* sums) {
  const int64_t from = greatest<int64_t>(rows.inside.from, 0);
  const int64_t to = least(rows.inside.to, rows.columns + K - 1), last = least(to, rows.columns);
  for (int64_t row = 0; row < rows.count;) {
    Vector<A> s[N * K] = {};
    for (int64_t chain = 0; row < rows.count && chain < kChain; ++row, chain += rows.columns) {
      const A* p[N];
      UNROLL_FOR (int64_t i = 0; i < N; ++i)
        p[i] = source + row * rows.source_row + runs[i].source + from * rows.source_column;
      const A* q = y + row * rows.y_row;
      Vector<A> window[K];  // outputs j, j - 1, ... at source j
      UNROLL_FOR (int64_t k = 0; k < K; ++k) {
        const int64_t j = from - 1 - k;
        window[k] = j >= 0 && j < rows.columns ? load<A>(q + j * rows.y_column) : Vector<A>{};
      }
      const auto add = [&](Vector<A> next) {
        UNROLL_FOR (int64_t k = K - 1; k > 0; --k) window[k] = window[k - 1];
        window[0] = next;
        UNROLL_FOR (int64_t i = 0; i < N; ++i) {
          const Vector<A> x = load<A>(p[i]);
          UNROLL_FOR (int64_t k = 0; k < K; ++k) s[i * K + k] += x * window[k];
          p[i] += rows.source_column;
        }
      };
      int64_t j = from;
      for (; j < last; ++j) add(load<A>(q + j * rows.y_column));
      for (; j < to; ++j) add(Vector<A>{});
    }
    add_to<A>(sums, s);
  }
}

template <class A>
using ReduceRuns = void (*)(const Run*, const A*, const A*, const Rows&, A*);

// Their places are in general registers, of which there are few.
constexpr int64_t kRunsReduced = 6;

template <class A, int64_t N, int64_t K>
constexpr ReduceRuns<A> runs_entry() {
  if constexpr (N * K <= kReduced) return reduce_runs<A, N, K>;
  return nullptr;
}
template <class A, int64_t K>
struct ReduceRunsOf {
  static constexpr ReduceRuns<A> of_runs[kRunsReduced] = {
      runs_entry<A, 1, K>(), runs_entry<A, 2, K>(), runs_entry<A, 3, K>(),
      runs_entry<A, 4, K>(), runs_entry<A, 5, K>(), runs_entry<A, 6, K>()};
};

// All tiles of M groups.
template <class A>
struct Tiles {
  const CorrelateTile<A>* correlate[kMostVectors];
  const ReduceTile<A>* reduce[kMostVectors];
};
template <class A, int64_t M>
constexpr Tiles<A> tiles_of() {
  return {{CorrelateTiles<A, M, 1, false>::all, CorrelateTiles<A, M, 2, false>::all,
           CorrelateTiles<A, M, 3, false>::all, CorrelateTiles<A, M, 4, false>::all},
          {ReduceTiles<A, M, 1>::of_numbers, ReduceTiles<A, M, 2>::of_numbers,
           ReduceTiles<A, M, 3>::of_numbers, ReduceTiles<A, M, 4>::of_numbers}};
}
// Of M = 1, 2, 4 and all lanes. Float64 has the first and the last alone.
template <class A>
constexpr Tiles<A> kTiles[] = {tiles_of<A, 1>(), tiles_of<A, sizeof(A) == 4 ? 2 : 1>(),
                               tiles_of<A, sizeof(A) == 4 ? 4 : 1>(), tiles_of<A, kLanes<A>>()};
template <class A>
INLINE const Tiles<A>& tiles_of_groups(int64_t merged) {
  return kTiles<A>[merged == kLanes<A> ? 3 : logarithm(merged)];
}
// By taps, of which there are 1, 2, 3, 5 or 7.
template <class A>
constexpr const ReduceRuns<A>* kReduceRuns[kLongestRun + 1] = {nullptr,
                                                               ReduceRunsOf<A, 1>::of_runs,
                                                               ReduceRunsOf<A, 2>::of_runs,
                                                               ReduceRunsOf<A, 3>::of_runs,
                                                               nullptr,
                                                               ReduceRunsOf<A, 5>::of_runs,
                                                               nullptr,
                                                               ReduceRunsOf<A, 7>::of_runs};

}  // namespace
}  // namespace grouped_conv
