// The kernels of one instruction set: compiled once for each, as INSTRUCTION_SET names it.

#include "kernels.h"

#include "narrow.h"
#include "wide.h"

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

template <class A>
A* as(A, void* p) {
  return static_cast<A*>(p);
}
template <class A>
const A* as(A, const void* p) {
  return static_cast<const A*>(p);
}

bool pack_narrow_any(const Correlation& n, const Filters& w, int64_t lane_block, void* packed) {
  return with_types(w.number, [&](auto s, auto a) {
    return pack_narrow<decltype(a), decltype(s)>(n, w, lane_block, as(a, packed));
  });
}

void correlate_narrow_any(const Correlation& n, const Block& block, int64_t lane_block,
                          const void* packed, void* scratch) {
  with_result(n, [&](auto s, auto a, auto r) {
    correlate_narrow<decltype(a), decltype(s), decltype(r)>(n, block, lane_block, as(a, packed),
                                                            as(a, scratch));
  });
}

void reduce_narrow_any(const Correlation& n, const Block& block, int64_t lane_block, void* sums,
                       void* scratch) {
  with_types(n.number, [&](auto s, auto a) {
    reduce_narrow<decltype(a), decltype(s)>(n, block, lane_block, as(a, sums), as(a, scratch));
  });
}

bool pack_wide_any(const Correlation& n, const Filters& w, int64_t group, int64_t first_filter,
                   int64_t vectors, void* packed) {
  return with_types(w.number, [&](auto s, auto a) {
    return pack_wide<decltype(a), decltype(s)>(n, w, group, first_filter, vectors, as(a, packed));
  });
}

void correlate_wide_any(const Correlation& n, const Block& block, int64_t group,
                        int64_t first_filter, int64_t vectors, int64_t parts, const void* packed,
                        void* scratch) {
  with_result(n, [&](auto s, auto a, auto r) {
    correlate_wide<decltype(a), decltype(s), decltype(r)>(
        n, block, group, first_filter, vectors, parts, as(a, packed), as(a, scratch));
  });
}

void reduce_wide_any(const Correlation& n, const Block& block, int64_t group, int64_t first_channel,
                     int64_t channels, int64_t first_filter, int64_t vectors, void* sums,
                     void* scratch) {
  with_types(n.number, [&](auto s, auto a) {
    reduce_wide<decltype(a), decltype(s)>(n, block, group, first_channel, channels, first_filter,
                                          vectors, as(a, sums), as(a, scratch));
  });
}

}  // namespace

#define KERNELS(name) k##name
#define KERNELS_OF(name) KERNELS(name)
#define QUOTED(name) #name
#define QUOTED_NAME(name) QUOTED(name)
extern const Kernels KERNELS_OF(INSTRUCTION_SET) = {
    QUOTED_NAME(INSTRUCTION_SET), kBytes,         pack_narrow_any,    correlate_narrow_any,
    reduce_narrow_any,            pack_wide_any,  correlate_wide_any, reduce_wide_any};

}  // namespace grouped_conv
