// Numbers on their way between arrays and tiles: sources, cotangents, outputs and filters of blocks
// of M groups, with zeros for what is not there.
#pragma once

#include "walk.h"

namespace grouped_conv {
namespace {

// Copies numbers in another order: number i of the target is number index[i] of the source, or
// zero.
template <class A>
struct Shuffle {
  template <class F>
  INLINE Shuffle(int64_t size, int64_t there, bool plain, const F& index_of)
      : size(size), there(there), plain(plain), quick(size % kLanes<A> == 0 && there == size) {
    for (int64_t i = 0; i < size && !plain; ++i) index[i] = int32_t(index_of(i));
  }
  template <class S>
  INLINE void operator()(const S* from, A* to) const {
    constexpr int64_t L = kLanes<A>;
    if (quick) {
      const int64_t count = size / L;
      for (int64_t v = 0; v < count; ++v)
        store_aligned<A>(to + v * L, pick<A>(from, count, index + v * L));
    } else {
      for (int64_t i = 0; i < size; ++i)
        to[i] = index[i] < there ? A(to_float(from[index[i]])) : A(0);
    }
  }
  int64_t size, there;
  bool plain;  // every number stays where it is
  bool quick;
  int32_t index[kMostShuffled];
};

// From (group, channel) of an array to (channel, group) of the scratch.
template <class A>
INLINE Shuffle<A> shuffle_sources(const Correlation& n, int64_t groups) {
  const bool is_plain = n.merged == 1 || n.inputs == 1;
  const int shift = logarithm(n.merged);
  return Shuffle<A>(n.merged * n.inputs, groups * n.inputs, is_plain,
                    [&](int64_t i) { return (i & (n.merged - 1)) * n.inputs + (i >> shift); });
}

// The place among the outputs of M groups of a lane of one of their vectors.
template <class A>
INLINE int64_t output_of_lane(const Correlation& n, int64_t i) {
  const int64_t vector = i / kLanes<A>, lane = i % kLanes<A>;
  const int shift = logarithm(n.merged);
  return (lane & (n.merged - 1)) * n.outputs + ((vector * kLanes<A> + lane) >> shift);
}

template <class A>
INLINE Shuffle<A> shuffle_outputs(const Correlation& n, int64_t groups) {
  const bool is_plain = n.merged == 1 || n.outputs == 1;
  return Shuffle<A>(n.merged * n.outputs, groups * n.outputs, is_plain,
                    [&](int64_t i) { return output_of_lane<A>(n, i); });
}

// The groups of block i.
INLINE int64_t first_group(const Correlation& n, int64_t i) {
  return least(i * n.merged, n.last_group);
}
INLINE int64_t groups_of(const Correlation& n, int64_t i) {
  return least(n.merged, n.groups - first_group(n, i));
}

template <class A, class S>
INLINE void copy_plain(const S* from, int64_t there, int64_t size, A* to) {
  constexpr int64_t L = kLanes<A>;
  int64_t i = 0;
  for (; i + L <= there; i += L) store<A>(to + i, load<A>(from + i));
  if (i < there) {
    store_some<A>(to + i, load_some<A>(from + i, there - i), least(L, size - i));
    i += L;
  }
  for (; i < size; ++i) to[i] = 0;
}

// The shuffles of whole blocks of groups, and of the last one, which may have fewer.
template <class A>
struct Shuffles {
  Shuffle<A> whole, last;
  int64_t blocks;
  INLINE const Shuffle<A>& of(int64_t block) const { return block + 1 < blocks ? whole : last; }
};
template <class A>
INLINE Shuffles<A> source_shuffles(const Correlation& n) {
  const int64_t blocks = divide_up(n.groups, n.merged);
  return {shuffle_sources<A>(n, n.merged), shuffle_sources<A>(n, groups_of(n, blocks - 1)), blocks};
}
template <class A>
INLINE Shuffles<A> output_shuffles(const Correlation& n) {
  const int64_t blocks = divide_up(n.groups, n.merged);
  return {shuffle_outputs<A>(n, n.merged), shuffle_outputs<A>(n, groups_of(n, blocks - 1)), blocks};
}

// Copies one row of sources to the scratch.
template <class A, class S>
INLINE void copy_sources(const Correlation& n, const Share& share, const Shuffles<A>& shuffles,
                         const SourceRow& row, A* scratch) {
  constexpr int64_t L = kLanes<A>;
  const int64_t size = n.layout.phase_sizes[2], block_size = n.layout.block_size;
  A* target = scratch + row.target;
  for (int64_t b = 0; b < share.blocks; ++b) {
    A* to = target + b * block_size;
    for (int64_t i = 0; i < row.from * size; ++i) to[i] = 0;
    for (int64_t i = row.to * size; i < row.count * size; ++i) to[i] = 0;
  }
  const int64_t all = n.groups * n.inputs;
  const int64_t channel = share.first_block * n.merged * n.inputs + share.first_channel;
  const S* from = static_cast<const S*>(n.x) + row.pixel * all + channel;
  if (n.merged == L && n.inputs == 1 && channel + share.blocks * L <= all) {
    // Pixel after pixel: block after block would read single lines of memory, far apart.
    for (int64_t i = row.from; i < row.to; ++i)
      for (int64_t b = 0; b < share.blocks; ++b)
        store_aligned<A>(target + b * block_size + i * L, load<A>(from + i * all + b * L));
    return;
  }
  for (int64_t b = 0; b < share.blocks; ++b, target += block_size, from += n.merged * n.inputs) {
    const Shuffle<A>& shuffle = shuffles.of(share.first_block + b);
    const int64_t there = n.merged == 1 ? share.channels : shuffle.there;
    if (!shuffle.plain) {
      for (int64_t i = row.from; i < row.to; ++i) shuffle(from + i * all, target + i * size);
    } else if (there == all && size == all) {
      const int64_t numbers = (row.to - row.from) * all;
      copy_plain<A>(from + row.from * all, numbers, numbers, target + row.from * size);
    } else {
      for (int64_t i = row.from; i < row.to; ++i)
        copy_plain<A>(from + i * all, there, size, target + i * size);
    }
  }
}

// Copies the cotangents of one block and the tile that begins with `vector`: `columns` pixels from
// `pixel` on.
template <class A, class S>
INLINE void copy_cotangents(const Correlation& n, const Share& share, int64_t block, int64_t vector,
                            const Shuffles<A>& shuffles, int64_t pixel, int64_t columns, A* to) {
  const int64_t all = n.groups * n.outputs, size = share.vectors * kLanes<A>;
  const int64_t filter = vector * kLanes<A>;
  const S* from = static_cast<const S*>(n.y) + pixel * all + block * n.merged * n.outputs;
  const Shuffle<A>& shuffle = shuffles.of(block);
  if (n.merged == 1) {
    for (int64_t i = 0; i < columns; ++i)
      copy_plain<A>(from + i * all + filter, least(n.outputs - filter, size), size, to + i * size);
  } else if (shuffle.plain) {
    for (int64_t i = 0; i < columns; ++i)
      copy_plain<A>(from + i * all, shuffle.there, size, to + i * size);
  } else {
    for (int64_t i = 0; i < columns; ++i) shuffle(from + i * all, to + i * size);
  }
}

// The filters of one block and tile, and whether all of them are finite.
template <class A, class S>
bool pack(const Correlation& n, const Filters& w, const Share& share, A* packed) {
  constexpr int64_t L = kLanes<A>;
  const int64_t width = n.groups * w.filters, part = L / n.merged;
  const int64_t groups = groups_of(n, share.first_block), group = first_group(n, share.first_block);
  const S* data = static_cast<const S*>(w.data);
  Vector<A> zeros = {};  // NaN in a lane that an infinite number or a NaN was in
  // Where the numbers of a tap and channel 0 lie, lane after lane.
  int64_t offsets[kMostVectors * L];
  for (int64_t i = 0; i < share.vectors * L; ++i) {
    const int64_t filter = (share.first_vector + i / L) * part + i % L / n.merged;
    const int64_t own = group + i % n.merged;
    offsets[i] = filter >= n.outputs || i % n.merged >= groups ? -1
                 : w.exchanged                                 ? filter * width + own * w.filters
                                                               : own * w.filters + filter;
  }
  const int64_t channel = w.exchanged ? 1 : width;
  const int64_t* taps = n.filter_taps;
  for (const Run* run = n.runs; run != n.runs + n.run_count; taps += run->taps, ++run) {
    const int64_t outer = n.flat ? run->taps : n.inputs, inner = n.flat ? n.inputs : run->taps;
    for (int64_t i = 0; i < outer; ++i)
      for (int64_t j = 0; j < inner; ++j) {
        const int64_t k = n.flat ? i : j, c = n.flat ? j : i;
        const S* tap = data + taps[k] * w.channels * width + c * channel;
        for (int64_t v = 0; v < share.vectors; ++v, packed += L) {
          const int64_t* at = offsets + v * L;
          Vector<A> numbers;
          if (at[0] >= 0 && at[L - 1] == at[0] + L - 1 && (n.merged == 1 || n.merged == L)) {
            numbers = load<A>(tap + at[0]);
          } else {
            alignas(64) A lanes[L];
            for (int64_t lane = 0; lane < L; ++lane)
              lanes[lane] = at[lane] < 0 ? A(0) : A(to_float(tap[at[lane]]));
            numbers = load_aligned<A>(lanes);
          }
          zeros += numbers - numbers;
          store_aligned<A>(packed, numbers);
        }
      }
  }
  for (int64_t i = 0; i < L; ++i)
    if (zeros[i] != 0) return false;
  return true;
}

}  // namespace
}  // namespace grouped_conv
