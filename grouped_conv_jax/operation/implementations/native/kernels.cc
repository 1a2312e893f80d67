// The kernels of one instruction set: compiled once for each, as INSTRUCTION_SET names it.

#include "kernels.h"

#include "blocks.h"
#include "tiles.h"
#include "walk.h"

namespace grouped_conv {
namespace {

// Calls f with values of the types of operands, sums and result.
template <class F>
INLINE void with_result(const Correlation& n, const F& f) {
  with_types(n.number, [&](auto operand, auto sum) {
    if constexpr (sizeof(operand) < 4) {
      if (n.result == Number::kFloat32) return f(operand, sum, float());
    }
    f(operand, sum, operand);
  });
}

// What a row of so many columns costs with tiles of some size: cycles for each product, of
// multiplications and of loads that do not quite hide behind them.
INLINE double row_cost(int64_t row, int64_t columns, int64_t vectors) {
  return double(divide_up(row, columns)) *
         (columns * vectors * 0.5 + (columns + vectors) * 0.25 + 1);
}

// The tile by which a row costs least. Most rows are as long as the one before.
struct TileSize {
  INLINE int64_t index_for(int64_t row) {
    if (row == columns) return index;
    for (int64_t i = 0; i < kTileSizes && kTileColumns[i] <= least(row, most_columns(vectors));
         ++i) {
      const double c = row_cost(row, kTileColumns[i], vectors);
      if (i == 0 || c <= cost) index = i, cost = c;
    }
    columns = row;
    return index;
  }
  int64_t vectors;
  int64_t columns = 0, index = 0;
  double cost = 0;
};

double cost_of_row(int64_t columns, int64_t vectors) {
  TileSize size{vectors};
  size.index_for(greatest<int64_t>(1, columns));
  return size.cost;
}

// Products that are summed in registers: of some neighbouring runs, or of a part of one.
struct Chunk {
  const Run* runs;
  int64_t count, channels;
  int64_t filter;  // where its packed filters begin, in vectors of filters
  bool is_first, is_last;
};

template <class F>
INLINE void for_chunks(const Correlation& n, int64_t phase, const F& f) {
  const Run *first = n.runs + n.first[phase], *last = n.runs + n.first[phase + 1];
  int64_t filter = n.first_tap[phase] * n.inputs;
  if (first == last) f(Chunk{first, 0, 0, filter, true, true});
  for (const Run* run = first; run != last;) {
    int64_t chain = run->taps * n.inputs;
    if (chain > kChain) {
      const int64_t numbers = n.flat ? chain : n.inputs, taps = n.flat ? 1 : run->taps;
      const int64_t parts = divide_up(numbers, kChannelsOfChain[taps]);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t from = numbers * part / parts;
        Run piece = *run;
        piece.source += from * n.merged, piece.taps = taps;
        f(Chunk{&piece, 1, numbers * (part + 1) / parts - from, filter + from * taps,
                run == first && part == 0, run + 1 == last && part + 1 == parts});
      }
      ++run;
    } else {
      const Run* end = run + 1;
      for (; end != last && chain + end->taps * n.inputs <= kChain; ++end)
        chain += end->taps * n.inputs;
      f(Chunk{run, end - run, n.inputs, filter, run == first, end == last});
      run = end;
    }
    filter += chain;
  }
}

// Where the numbers of the vectors of one pixel of M groups belong, in order.
template <class A>
struct OutputOrder {
  OutputOrder(const Correlation& n, int64_t vectors) : vectors(vectors) {
    // Tiles put one vector in order themselves, and single groups are.
    needed = n.merged > 1 && vectors > 1;
    for (int64_t lane = 0; needed && lane < vectors * kLanes<A>; ++lane)
      index[output_of_lane<A>(n, lane)] = int32_t(lane);
  }
  INLINE Vector<A> operator()(const A* numbers, int64_t vector) const {
    constexpr int64_t L = kLanes<A>;
    if (!needed) return load_aligned<A>(numbers + vector * L);
    return pick<A>(numbers, vectors, index + vector * L);
  }
  int64_t vectors;
  bool needed;
  int32_t index[kMostVectors * kLanes<A>];
};

template <class A, class S, class R>
void correlate(const Correlation& n, const Block& block, const Share& share, const A* packed,
               A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const Shuffles<A> sources = source_shuffles<A>(n);
  const OutputOrder<A> order(n, share.vectors);
  const int64_t channels = n.groups * n.outputs, size = share.vectors * L;
  const int64_t packed_size = n.first_tap[n.phases] * n.inputs * size;
  const Tiles<A>& tiles = tiles_of_groups<A>(n.merged);
  const bool is_paired = tiles.correlate[share.vectors - 1][kTileSizes] && n.phases == 1 &&
                         counted(n.axes[2], block.at[2]) == kPairedColumns;
  const int64_t step = n.axes[2].spread * channels, y_row = n.axes[2].output * channels;
  TileSize tile_size{share.vectors};
  A* const sums =
      scratch + (n.in_place ? 0 : (n.rows_at_once + n.axes[1].halo) * n.layout.row_size);

  // What one tile of filters of one block of groups reads and writes.
  struct Part {
    const A *source, *filters;
    R* y;
    int64_t there;  // filters that there are
    bool is_whole;  // tiles can write y themselves
  };
  const int shift = logarithm(L / n.merged);
  const auto part_of = [&](int64_t i, int64_t p) {
    const int64_t b = share.first_block + i, group = first_group(n, b);
    const int64_t filter = (share.first_vector + p * share.vectors) << shift;
    const int64_t there =
        n.merged == 1 ? least(size, n.outputs - filter) : groups_of(n, b) * n.outputs;
    return Part{n.in_place ? static_cast<const A*>(n.x) + group * n.inputs
                           : scratch + i * n.layout.block_size,
                packed + (i * share.parts + p) * packed_size,
                static_cast<R*>(const_cast<void*>(n.y)) + group * n.outputs + filter, there,
                __is_same(A, R) && !order.needed && there == size};
  };

  // One row of some parts, whose sums begin at `place`: tile by tile, so that neighbouring lines of
  // y are written together.
  const auto compute = [&](const Row& row, const Part* parts, int64_t count, const Chunk& chunk,
                           A*& place) {
    const int64_t columns = kTileColumns[tile_size.index_for(row.columns)];
    const int64_t index = row.rows == 2 ? kTileSizes : tile_size.index;
    const CorrelateTile<A> inner = tiles.correlate[share.vectors - 1][index];
    const bool inner_rows =
        !n.in_place || (contains(n.interior[0], row.at[0]) && contains(n.interior[1], row.at[1]) &&
                        contains(n.interior[1], row.at[1] + row.rows - 1));
    TileRow<A> tile{chunk.runs,
                    chunk.count,
                    chunk.channels,
                    n.flat,
                    n.layout.column_size,
                    nullptr,
                    n.layout.row_size,
                    0,
                    0,
                    row.at,
                    0};
    for (int64_t at = 0; at < row.columns; at += columns, place += row.rows * columns * size) {
      const int64_t first = least(at, row.columns - columns);
      tile.first = row.at[2] + first;
      const bool is_inner =
          inner_rows && (!n.in_place || (tile.first >= n.interior[2].from &&
                                         tile.first + columns <= n.interior[2].to));
      const CorrelateTile<A> function = is_inner ? inner : kBorderTiles<A>[index];
      for (const Part* part = parts; part != parts + count; ++part) {
        const bool in_place = chunk.is_last && part->is_whole;
        R* to = part->y + row.pixel * channels + first * step;
        tile.filters = part->filters + chunk.filter * size;
        tile.step = in_place ? step : size, tile.y_row = in_place ? y_row : columns * size;
        function(tile, part->source + row.source + first * n.layout.column_size,
                 chunk.is_first ? nullptr : place, chunk.is_last,
                 in_place ? reinterpret_cast<A*>(to) : place);
        for (int64_t t = 0; t < columns * row.rows && chunk.is_last && !in_place; ++t) {
          R* pixel = to + t / columns * y_row + t % columns * step;
          for (int64_t v = 0; v * L < part->there; ++v)
            store_up_to<A>(pixel + v * L, order(place + t * size, v), part->there - v * L);
        }
      }
    }
  };

  bool is_single = true;
  for (int64_t phase = 0; phase < n.phases; ++phase)
    for_chunks(n, phase, [&](const Chunk& chunk) { is_single &= chunk.is_first && chunk.is_last; });
  // Row by row, so that neighbouring lines of y are written together; or part by part, and of each
  // one filters that stay near for all rows.
  const bool by_row = share.parts == 1 && (is_single || share.blocks > 1);
  Part parts[kMostBlocks + 1];
  for (int64_t i = 0; i < share.blocks && by_row; ++i) parts[i] = part_of(i, 0);
  const int64_t at_once = is_paired ? 2 : 1;
  walk(
      n, block, scratch,
      [&](const SourceRow& row) { copy_sources<A, S>(n, share, sources, row, scratch); },
      [&](int64_t at, int64_t rows) {
        if (by_row) {
          for_rows(n, block, at, rows, at_once, {0, n.phases}, [&](const Row& row) {
            // All parts of one chunk, or all chunks of one part.
            const int64_t at_once = is_single ? share.blocks : 1;
            for (int64_t first = 0; first < share.blocks; first += at_once)
              for_chunks(n, row.phase, [&](const Chunk& chunk) {
                A* place = sums;
                compute(row, parts + first, at_once, chunk, place);
              });
          });
          return;
        }
        for (int64_t i = 0; i < share.blocks; ++i)
          for (int64_t p = 0; p < share.parts; ++p) {
            const Part part = part_of(i, p);
            for (int64_t phase = 0; phase < n.phases; ++phase)
              for_chunks(n, phase, [&](const Chunk& chunk) {
                A* place = sums;
                for_rows(n, block, at, rows, at_once, {phase, phase + 1},
                         [&](const Row& row) { compute(row, &part, 1, chunk, place); });
              });
          }
      });
}

// The largest tile of up to so many numbers.
INLINE int64_t tile_of_numbers(int64_t numbers, int64_t vectors) {
  const int64_t most = least(numbers, kReduced / vectors);
  int64_t index = 0;
  while (index + 1 < kNumberSizes && kTileNumbers[index + 1] <= most) ++index;
  return index;
}

// Adds what some rows of one block of groups give to its sums. `at` is the first output.
template <class A>
void reduce_rows(const Correlation& n, const Share& share, const int64_t (&at)[3], const A* source,
                 const A* y, Rows rows, A* sums) {
  constexpr int64_t L = kLanes<A>;
  if (n.merged == L && n.inputs == 1 && share.vectors == 1) {
    const auto is_inside = [&](const Run& run) {
      return contains(run.inside[0], at[0]) && contains(run.inside[1], at[1]);
    };
    for (int64_t i = 0; i < n.run_count;) {
      const Run& run = n.runs[i];
      int64_t alike = 1;
      for (; i + alike < n.run_count; ++alike) {
        const Run& other = n.runs[i + alike];
        if (run.taps != other.taps || run.inside[2].from != other.inside[2].from ||
            run.inside[2].to != other.inside[2].to || is_inside(run) != is_inside(other))
          break;
      }
      rows.inside = {run.inside[2].from - at[2], run.inside[2].to - at[2]};
      const int64_t taps = run.taps;
      const int64_t parts = divide_up(alike, least(kRunsReduced, kReduced / taps));
      const bool is_met = is_inside(run);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t size = alike * (part + 1) / parts - alike * part / parts;
        if (is_met) kReduceRuns<A>[taps][size - 1](n.runs + i, source, y, rows, sums);
        i += size, sums += size * taps * L;
      }
    }
    return;
  }
  const ReduceTile<A>* tiles = tiles_of_groups<A>(n.merged).reduce[share.vectors - 1];
  const int64_t pixel = n.layout.phase_sizes[2];
  for (const Run* run = n.runs; run != n.runs + n.run_count; ++run) {
    // Channels of a tap follow those of the one before it, if all of them are there.
    const bool all = share.channels * n.merged == pixel;
    const int64_t numbers = (all ? run->taps : 1) * share.channels;
    for (int64_t k = 0; k < (all ? 1 : run->taps); ++k)
      for (int64_t first = 0, size; first < numbers; first += size) {
        const int64_t index = tile_of_numbers(numbers - first, share.vectors);
        size = kTileNumbers[index];
        tiles[index](source + run->source + k * pixel + first * n.merged, y, rows, sums);
        sums += size * share.vectors * L;
      }
  }
}

// Tiles of numbers for which cotangents are read again, up to which they are not copied: copies
// took a seventh of the time of groups of 16 channels (Xeon, AVX-512).
constexpr int64_t kReadsInPlace = 12;

template <class A, class S>
void reduce(const Correlation& n, const Block& block, const Share& share, A* sums, A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const Shuffles<A> sources = source_shuffles<A>(n), outputs = output_shuffles<A>(n);
  const AxisView &depth = n.axes[0], &height = n.axes[1], &width = n.axes[2];
  const int64_t columns = counted(width, block.at[2]), size = share.vectors * L;
  A* ys = scratch + (n.in_place ? 0 : (n.rows_at_once + height.halo) * n.layout.row_size);
  const int64_t all = n.groups * n.outputs;
  Rows rows{0, columns, n.layout.row_size, n.layout.column_size, 0, 0, {}};
  // Cotangents whose lanes are in order, and that are read but a few times, are not copied.
  const bool is_read_few_times =
      __is_same(A, S) && (n.in_place || (n.merged == 1 && n.first_tap[n.phases] * share.channels <=
                                                              kReadsInPlace * kReduced));

  // Rows whose taps lie in the image alike.
  const auto reduce_alike = [&](int64_t at, int64_t count) {
    const int64_t first[3] = {block.at[0], block.at[1] + at, block.at[2]};
    const int64_t row = (block.image * depth.output + first[0]) * height.output + first[1];
    const int64_t pixel = row * width.output + first[2];
    const int64_t sum_size = n.first_tap[n.phases] * share.channels * size;
    rows.count = count;
    for (int64_t part = 0; part < share.parts; ++part) {
      const int64_t vector = share.first_vector + part * share.vectors;
      const bool in_place = is_read_few_times && (n.in_place || n.outputs >= vector * L + size);
      rows.y_row = in_place ? width.output * all : columns * size;
      rows.y_column = in_place ? all : size;
      for (int64_t r = 0; r < count && !in_place; ++r)
        for (int64_t b = 0; b < share.blocks; ++b)
          copy_cotangents<A, S>(n, share, share.first_block + b, vector, outputs,
                                pixel + r * width.output, columns,
                                ys + (b * count + r) * columns * size);
      for (int64_t b = 0; b < share.blocks; ++b) {
        const int64_t group = first_group(n, share.first_block + b);
        const A* x = n.in_place ? static_cast<const A*>(n.x) + group +
                                      place_in_x(n, block.image, first[0], first[1], first[2])
                                : scratch + b * n.layout.block_size;
        const A* y = in_place
                         ? static_cast<const A*>(n.y) + pixel * all + group * n.outputs + vector * L
                         : ys + b * count * columns * size;
        reduce_rows<A>(n, share, first, x, y, rows, sums + (b * share.parts + part) * sum_size);
      }
    }
  };
  walk(
      n, block, scratch,
      [&](const SourceRow& row) { copy_sources<A, S>(n, share, sources, row, scratch); },
      [&](int64_t at, int64_t count) {
        if (!n.in_place) return reduce_alike(at, count);
        for (int64_t i = at, alike; i < at + count; i += alike) {
          const int64_t row = block.at[1] + i;
          alike = contains(n.interior[1], row)
                      ? least(at + count, n.interior[1].to - block.at[1]) - i
                      : 1;
          reduce_alike(i, alike);
        }
      });
}

template <class A>
A* as(A, void* p) {
  return static_cast<A*>(p);
}
template <class A>
const A* as(A, const void* p) {
  return static_cast<const A*>(p);
}

bool pack_any(const Correlation& n, const Filters& filters, const Share& share, void* packed) {
  return with_types(n.number, [&](auto s, auto a) {
    return pack<decltype(a), decltype(s)>(n, filters, share, as(a, packed));
  });
}

void correlate_any(const Correlation& n, const Block& block, const Share& share, const void* packed,
                   void* scratch) {
  with_result(n, [&](auto s, auto a, auto r) {
    correlate<decltype(a), decltype(s), decltype(r)>(n, block, share, as(a, packed),
                                                     as(a, scratch));
  });
}

void reduce_any(const Correlation& n, const Block& block, const Share& share, void* sums,
                void* scratch) {
  with_types(n.number, [&](auto s, auto a) {
    reduce<decltype(a), decltype(s)>(n, block, share, as(a, sums), as(a, scratch));
  });
}

}  // namespace

// Macros, for the name of a function is made of a flag of the compiler.
#define QUOTE(name) #name
#define KERNELS_OF(name)                                                         \
  const Kernels* kernels_##name() {                                              \
    static constexpr Kernels kernels = {QUOTE(name), kBytes,        cost_of_row, \
                                        pack_any,    correlate_any, reduce_any}; \
    return &kernels;                                                             \
  }
#define KERNELS_OF_THIS(name) KERNELS_OF(name)
KERNELS_OF_THIS(INSTRUCTION_SET)

}  // namespace grouped_conv
