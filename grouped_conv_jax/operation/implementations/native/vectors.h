// Vectors of one instruction set: loads and stores that convert, some lanes only, or by index.
//
// Everything is in an anonymous namespace and nothing of the standard library is used, so that no
// file of an instruction set shares a function with another.
#pragma once

#include <cstdint>

#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace grouped_conv {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int64_t kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int64_t kBytes = 16, kRegisters = 32;
#else
constexpr int64_t kBytes = 16, kRegisters = 16;
#endif

#define INLINE [[gnu::always_inline]] inline
// Loops over registers, whose indices must be constants.
#define UNROLL_FOR _Pragma("GCC unroll 32") for

template <class T, int64_t N>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
  typedef T unaligned __attribute__((vector_size(sizeof(T) * N), aligned(1), may_alias));
};
template <class A>
constexpr int64_t kLanes = kBytes / int64_t(sizeof(A));
template <class A>
using Vector = typename VectorOf<A, kLanes<A>>::type;

struct Bfloat16 {
  uint16_t bits;
};

template <class T>
constexpr T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T greatest(T a, T b) {
  return a < b ? b : a;
}
// Any a, and b > 0.
constexpr int64_t divide_up(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

INLINE int logarithm(int64_t power_of_two) { return __builtin_ctzll(uint64_t(power_of_two)); }

template <class T, int64_t N>
INLINE typename VectorOf<T, N>::type load_plain(const void* p) {
  return *static_cast<const typename VectorOf<T, N>::unaligned*>(p);
}
template <class T, int64_t N>
INLINE void store_plain(void* p, typename VectorOf<T, N>::type v) {
  *static_cast<typename VectorOf<T, N>::unaligned*>(p) = v;
}

template <class A>
INLINE Vector<A> load_aligned(const A* p) {
  return *reinterpret_cast<const Vector<A>*>(p);
}
template <class A>
INLINE void store_aligned(A* p, Vector<A> v) {
  *reinterpret_cast<Vector<A>*>(p) = v;
}
template <class A>
INLINE Vector<A> broadcast(A a) {
  return a - Vector<A>{};
}

// kLanes<A> numbers, converted.
template <class A>
INLINE Vector<A> load(const A* p) {
  return load_plain<A, kLanes<A>>(p);
}
template <class A>
INLINE Vector<A> load(const Bfloat16* p) {
  constexpr int64_t n = kLanes<A>;
  using Wide = typename VectorOf<uint32_t, n>::type;
  const Wide bits = __builtin_convertvector((load_plain<uint16_t, n>(p)), Wide) << 16;
  return reinterpret_cast<Vector<A>>(bits);
}
template <class A>
INLINE Vector<A> load(const _Float16* p) {
  return __builtin_convertvector((load_plain<_Float16, kLanes<A>>(p)), Vector<A>);
}

template <class A>
INLINE void store(A* p, Vector<A> v) {
  store_plain<A, kLanes<A>>(p, v);
}
template <class A>
INLINE void store(Bfloat16* p, Vector<A> v) {
  constexpr int64_t n = kLanes<A>;
  using Wide = typename VectorOf<uint32_t, n>::type;
  const Wide bits = reinterpret_cast<Wide>(v);
  const Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  // Rounding could carry a NaN over to infinity.
  const Wide is_nan = reinterpret_cast<Wide>(v != v);
  const Wide chosen = (is_nan & ((bits >> 16) | 0x40)) | (~is_nan & rounded);
  store_plain<uint16_t, n>(p,
                           __builtin_convertvector(chosen, typename VectorOf<uint16_t, n>::type));
}
template <class A>
INLINE void store(_Float16* p, Vector<A> v) {
  store_plain<_Float16, kLanes<A>>(
      p, __builtin_convertvector(v, typename VectorOf<_Float16, kLanes<A>>::type));
}

INLINE float to_float(Bfloat16 number) {
  return __builtin_bit_cast(float, uint32_t(number.bits) << 16);
}
INLINE float to_float(_Float16 number) { return float(number); }
INLINE float to_float(float number) { return number; }
INLINE double to_float(double number) { return number; }

#if defined(__AVX512F__)
INLINE __mmask16 first_lanes(int64_t count) { return __mmask16((1u << count) - 1); }
#elif defined(__AVX2__)
INLINE __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

// The first `count` numbers, fewer than a vector; the other lanes are zero.
template <class A, class S>
INLINE Vector<A> load_some(const S* p, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (__is_same(S, float)) return (Vector<A>)_mm512_maskz_loadu_ps(first_lanes(count), p);
#elif defined(__AVX2__)
  if constexpr (__is_same(S, float)) return (Vector<A>)_mm256_maskload_ps(p, first_lanes(count));
#endif
  S buffer[kLanes<A>] = {};
  __builtin_memcpy(buffer, p, count * sizeof(S));
  return load<A>(buffer);
}
template <class A, class S>
INLINE void store_some(S* p, Vector<A> v, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (__is_same(S, float)) return _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v);
#elif defined(__AVX2__)
  if constexpr (__is_same(S, float)) return _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
#endif
  S buffer[kLanes<A>];
  store<A>(buffer, v);
  __builtin_memcpy(p, buffer, count * sizeof(S));
}
template <class A, class S>
INLINE void store_up_to(S* p, Vector<A> v, int64_t count) {
  count >= kLanes<A> ? store<A>(p, v) : store_some<A>(p, v, count);
}

template <int64_t... I>
struct Indices {};
template <int64_t N, int64_t... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int64_t... I>
struct Count<0, I...> {
  using type = Indices<I...>;
};
template <int64_t N>
using Sequence = typename Count<N>::type;

// M numbers over and over.
template <class A, int64_t M, int64_t... I>
INLINE Vector<A> repeat_lanes(typename VectorOf<A, M>::type v, Indices<I...>) {
  return __builtin_shufflevector(v, v, (I % M)...);
}

// Lanes (filter, group) of M groups as (group, filter).
template <class A, int64_t M, int64_t... I>
INLINE Vector<A> exchange_lanes(Vector<A> v, Indices<I...>) {
  return __builtin_shufflevector(v, v, (I % (kLanes<A> / M) * M + I / (kLanes<A> / M))...);
}
template <class A, int64_t M>
INLINE Vector<A> filters_apart(Vector<A> v) {
  if constexpr (M == 1 || M == kLanes<A>)
    return v;
  else
    return exchange_lanes<A, M>(v, Sequence<kLanes<A>>());
}

// Lane i is number index[i] of those that fill `count` vectors, converted.
template <class A, class S>
INLINE Vector<A> pick(const S* numbers, int64_t count, const int32_t* index) {
  constexpr int64_t L = kLanes<A>;
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4) {
    const __m512i at = _mm512_loadu_si512(index);
    if (count == 1) return (Vector<A>)_mm512_permutexvar_ps(at, (__m512)load<A>(numbers));
    __m512 picked =
        _mm512_permutex2var_ps((__m512)load<A>(numbers), at, (__m512)load<A>(numbers + L));
    for (int64_t i = 2; i < count; i += 2) {
      const __m512 more =
          _mm512_permutex2var_ps((__m512)load<A>(numbers + i * L), at,
                                 (__m512)load<A>(numbers + least(i + 1, count - 1) * L));
      const __mmask16 mask = _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(int(i) * 16));
      picked = _mm512_mask_blend_ps(mask, picked, more);
    }
    return (Vector<A>)picked;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
    __m256 picked = _mm256_permutevar8x32_ps((__m256)load<A>(numbers), at);
    for (int64_t i = 1; i < count; ++i) {
      const __m256 more = _mm256_permutevar8x32_ps((__m256)load<A>(numbers + i * L), at);
      const __m256i mask = _mm256_cmpgt_epi32(at, _mm256_set1_epi32(int(i) * 8 - 1));
      picked = _mm256_blendv_ps(picked, more, _mm256_castsi256_ps(mask));
    }
    return (Vector<A>)picked;
  }
#endif
  Vector<A> picked;
  for (int64_t i = 0; i < L; ++i) picked[i] = to_float(numbers[index[i]]);
  (void)count;
  return picked;
}

// Calls f with a value of the type that a number is stored as, and one of the type of its sums.
template <class F>
INLINE auto with_types(Number number, const F& f) {
  switch (number) {
    case Number::kFloat64: return f(double(), double());
    case Number::kBfloat16: return f(Bfloat16(), float());
    case Number::kFloat16: return f(_Float16(), float());
    default: return f(float(), float());
  }
}

}  // namespace
}  // namespace grouped_conv
