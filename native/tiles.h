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
    return load_aligned<A>(p);
  } else {
    return repeat_lanes<A, M>(load_plain<A, M>(p), Sequence<L>());
  }
}

// What tiles of a row of outputs have in common.
template <class A>
struct TileRow {
  const Run* runs;
  int64_t count;
  int64_t channels;    // of a group
  int64_t column;      // numbers from one column of the sources to the next
  const A* filters;    // (run, channel, tap, vector, lane)
  int64_t step;        // numbers from one column of y to the next
  int64_t row, y_row;  // numbers from one row of sources, of y, to the next, for tiles of two
  int64_t ahead;       // numbers from y to what is written later and fetched now; 0 for nothing
};

// Columns of a tile of so many vectors of filters.
constexpr int64_t most_columns(int64_t vectors) {
  if (kRegisters == 32) return vectors <= 2 ? 14 : 24 / vectors;
  return vectors == 1 ? 8 : vectors == 2 ? 5 : vectors == 3 ? 4 : 3;
}

// Sums of about so many products are added to a total, so that they round less than one long chain.
constexpr int64_t kChain = 64;

// s[t] += source[t + k] * filter[k] for the K taps of a run, over some channels, in R rows.
template <class A, int64_t M, int64_t K, int64_t R, int64_t T, int64_t V>
INLINE const A* add_run(Vector<A> (&s)[R][T][V], const TileRow<A>& row, int64_t channels,
                        const A* source, const A* filter) {
  constexpr int64_t L = kLanes<A>;
  const int64_t column = row.column;
  for (int64_t c = 0; c < channels; ++c, source += M, filter += K * V * L) {
    Vector<A> f[K][V];
    UNROLL_FOR (int64_t k = 0; k < K; ++k)
      UNROLL_FOR (int64_t v = 0; v < V; ++v) f[k][v] = load_aligned<A>(filter + (k * V + v) * L);
    UNROLL_FOR (int64_t r = 0; r < R; ++r) {
      const A* p = source + r * row.row;
      UNROLL_FOR (int64_t j = 0; j < T + K - 1; ++j) {
        const Vector<A> x = repeat<A, M>(p);
        p += column;
        UNROLL_FOR (int64_t k = 0; k < K; ++k) {
          if (j - k < 0 || j - k >= T) continue;
          UNROLL_FOR (int64_t v = 0; v < V; ++v) s[r][j - k][v] += x * f[k][v];
        }
      }
    }
  }
  return filter;
}

// R rows of T columns, and V vectors of filters.
template <class A, int64_t M, int64_t R, int64_t T, int64_t V>
void correlate_tile(const TileRow<A>& row, const A* source, A* y) {
  if (row.ahead) {
    UNROLL_FOR (int64_t t = 0; t < T; ++t)
      UNROLL_FOR (int64_t v = 0; v < V; ++v)
        __builtin_prefetch(y + row.ahead + t * row.step + v * kLanes<A>, 1);
  }
  Vector<A> s[R][T][V] = {}, total[R][T][V];
  const A* filter = row.filters;
  int64_t chain = 0;
  bool is_first = true;
  for (const Run* run = row.runs; run != row.runs + row.count; ++run) {
    const int64_t at_once = greatest<int64_t>(1, kChain / run->taps);
    for (int64_t c = 0; c < row.channels; c += at_once) {
      const int64_t channels = least(at_once, row.channels - c);
      if (chain >= kChain) {
        UNROLL_FOR (int64_t r = 0; r < R; ++r)
          UNROLL_FOR (int64_t t = 0; t < T; ++t)
            UNROLL_FOR (int64_t v = 0; v < V; ++v) {
              total[r][t][v] = is_first ? s[r][t][v] : total[r][t][v] + s[r][t][v];
              s[r][t][v] = Vector<A>{};
            }
        is_first = false;
        chain = 0;
      }
      chain += channels * run->taps;
      const A* p = source + run->source + c * M;
      if constexpr (V == 1) {
        switch (run->taps) {
          case 1: filter = add_run<A, M, 1>(s, row, channels, p, filter); break;
          case 2: filter = add_run<A, M, 2>(s, row, channels, p, filter); break;
          case 3: filter = add_run<A, M, 3>(s, row, channels, p, filter); break;
          case 5: filter = add_run<A, M, 5>(s, row, channels, p, filter); break;
          default: filter = add_run<A, M, 7>(s, row, channels, p, filter);
        }
      } else {
        filter = add_run<A, M, 1>(s, row, channels, p, filter);
      }
    }
  }
  if (!is_first) {
    UNROLL_FOR (int64_t r = 0; r < R; ++r)
      UNROLL_FOR (int64_t t = 0; t < T; ++t)
        UNROLL_FOR (int64_t v = 0; v < V; ++v) s[r][t][v] += total[r][t][v];
  }
  UNROLL_FOR (int64_t r = 0; r < R; ++r)
    UNROLL_FOR (int64_t t = 0; t < T; ++t)
      UNROLL_FOR (int64_t v = 0; v < V; ++v)
        store<A>(y + r * row.y_row + t * row.step + v * kLanes<A>,
                 V == 1 ? filters_apart<A, M>(s[r][t][v]) : s[r][t][v]);
}

template <class A>
using CorrelateTile = void (*)(const TileRow<A>&, const A*, A*);

// Sizes of tiles, in columns. A row of any other size ends with a tile that overlaps the one
// before.
constexpr int64_t kTileColumns[] = {1, 2, 4, 6, 7, 8, 10, 14};
constexpr int64_t kTileSizes = 8;
// Rows that are too short for a tile of their own, in the last layers of networks, go in pairs.
constexpr int64_t kPairedColumns = 7;

// Float64 has only tiles that are a vector wide: fewer to compile, for numbers few compute with.
template <class A>
constexpr int64_t kWidestTile = sizeof(A) == 4 ? kMostVectors : 1;

template <class A, int64_t M, int64_t T, int64_t V>
constexpr CorrelateTile<A> correlate_entry() {
  if constexpr (T <= most_columns(V) && V <= kWidestTile<A>) return correlate_tile<A, M, 1, T, V>;
  return nullptr;
}
template <class A, int64_t M, int64_t V>
struct CorrelateTiles {
  static constexpr CorrelateTile<A> of_columns[kTileSizes] = {
      correlate_entry<A, M, 1, V>(),  correlate_entry<A, M, 2, V>(), correlate_entry<A, M, 4, V>(),
      correlate_entry<A, M, 6, V>(),  correlate_entry<A, M, 7, V>(), correlate_entry<A, M, 8, V>(),
      correlate_entry<A, M, 10, V>(), correlate_entry<A, M, 14, V>()};
};

// Some rows of outputs, whose products with sources are summed up.
struct Rows {
  int64_t count, columns, source_step, y_step;
  int64_t y_column;  // numbers from one column of y to the next
  int64_t ahead;     // numbers from a vector of y to the one that is fetched with it
};

// Sums of a tile.
constexpr int64_t kReduced = kRegisters == 32 ? 24 : 12;

// sums[j][v] += source[j][column] * y[column][v] over rows, for J neighbouring numbers of M groups,
// channels of a tap after those of the one before it, and V vectors of filters.
template <class A, int64_t M, int64_t J, int64_t V>
void reduce_tile(const A* source, int64_t column, const A* y, const Rows& rows, A* sums) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t row = 0; row < rows.count;) {
    Vector<A> s[J][V] = {};
    for (int64_t chain = 0; row < rows.count && chain < kChain; ++row, chain += rows.columns) {
      const A *p = source + row * rows.source_step, *q = y + row * rows.y_step;
      for (const A* end = q + rows.columns * rows.y_column; q != end;
           p += column, q += rows.y_column) {
        Vector<A> f[V];
        UNROLL_FOR (int64_t v = 0; v < V; ++v) f[v] = load_aligned<A>(q + v * L);
        UNROLL_FOR (int64_t j = 0; j < J; ++j) {
          const Vector<A> x = repeat<A, M>(p + j * M);
          UNROLL_FOR (int64_t v = 0; v < V; ++v) s[j][v] += x * f[v];
        }
      }
    }
    UNROLL_FOR (int64_t j = 0; j < J; ++j)
      UNROLL_FOR (int64_t v = 0; v < V; ++v) {
        A* to = sums + (j * V + v) * L;
        store_aligned<A>(to, load_aligned<A>(to) + s[j][v]);
      }
  }
}

template <class A>
using ReduceTile = void (*)(const A*, int64_t, const A*, const Rows&, A*);

// Sizes of tiles, in numbers.
constexpr int64_t kTileNumbers[] = {1, 2, 3, 4, 6, 8, 12, 16, 24};
constexpr int64_t kNumberSizes = 9;

template <class A, int64_t M, int64_t J, int64_t V>
constexpr ReduceTile<A> reduce_entry() {
  if constexpr (J * V <= kReduced && V <= kWidestTile<A>) return reduce_tile<A, M, J, V>;
  return nullptr;
}
template <class A, int64_t M, int64_t V>
struct ReduceTiles {
  static constexpr ReduceTile<A> of_numbers[kNumberSizes] = {
      reduce_entry<A, M, 1, V>(),  reduce_entry<A, M, 2, V>(),  reduce_entry<A, M, 3, V>(),
      reduce_entry<A, M, 4, V>(),  reduce_entry<A, M, 6, V>(),  reduce_entry<A, M, 8, V>(),
      reduce_entry<A, M, 12, V>(), reduce_entry<A, M, 16, V>(), reduce_entry<A, M, 24, V>()};
};

// The same for N runs of K taps of one channel, where single runs would wait for their sums.
template <class A, int64_t N, int64_t K>
void reduce_runs(const Run* runs, const A* source, const A* y, const Rows& rows, A* sums) {
  constexpr int64_t L = kLanes<A>;
  for (int64_t row = 0; row < rows.count;) {
    Vector<A> s[N][K] = {};
    for (int64_t chain = 0; row < rows.count && chain < kChain; ++row, chain += rows.columns) {
      const A* p[N];
      UNROLL_FOR (int64_t i = 0; i < N; ++i)
        p[i] = source + row * rows.source_step + runs[i].source;
      const A* q = y + row * rows.y_step;
      for (const A* end = q + rows.columns * rows.y_column; q != end; q += rows.y_column) {
        __builtin_prefetch(q + rows.ahead);
        const Vector<A> f = load<A>(q);
        UNROLL_FOR (int64_t i = 0; i < N; ++i) {
          UNROLL_FOR (int64_t k = 0; k < K; ++k) s[i][k] += load_aligned<A>(p[i] + k * L) * f;
          p[i] += L;
        }
      }
    }
    UNROLL_FOR (int64_t i = 0; i < N; ++i)
      UNROLL_FOR (int64_t k = 0; k < K; ++k) {
        A* to = sums + (i * K + k) * L;
        store_aligned<A>(to, load_aligned<A>(to) + s[i][k]);
      }
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

template <class A, int64_t M, int64_t V>
constexpr CorrelateTile<A> pair_entry() {
  if constexpr (2 * kPairedColumns <= most_columns(V) && V <= kWidestTile<A>)
    return correlate_tile<A, M, 2, kPairedColumns, V>;
  return nullptr;
}

// All tiles of M groups.
template <class A>
struct Tiles {
  const CorrelateTile<A>* correlate[kMostVectors];
  CorrelateTile<A> pair[kMostVectors];  // null where it would not fit the registers
  const ReduceTile<A>* reduce[kMostVectors];
};
template <class A, int64_t M>
constexpr Tiles<A> tiles_of() {
  return {
      {CorrelateTiles<A, M, 1>::of_columns, CorrelateTiles<A, M, 2>::of_columns,
       CorrelateTiles<A, M, 3>::of_columns, CorrelateTiles<A, M, 4>::of_columns},
      {pair_entry<A, M, 1>(), pair_entry<A, M, 2>(), pair_entry<A, M, 3>(), pair_entry<A, M, 4>()},
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
template <class A>
constexpr const ReduceRuns<A>* kReduceRuns[kLongestRun] = {
    ReduceRunsOf<A, 1>::of_runs, ReduceRunsOf<A, 2>::of_runs, ReduceRunsOf<A, 3>::of_runs,
    ReduceRunsOf<A, 4>::of_runs, ReduceRunsOf<A, 5>::of_runs, ReduceRunsOf<A, 6>::of_runs,
    ReduceRunsOf<A, 7>::of_runs};

}  // namespace
}  // namespace grouped_conv
