// The types of numbers, one at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace grouped_conv {

struct Bfloat16 {
  uint16_t bits;
};

inline float to_float(float number) { return number; }
inline double to_float(double number) { return number; }
inline float to_float(_Float16 number) { return float(number); }
inline float to_float(Bfloat16 number) {
  const uint32_t bits = uint32_t(number.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

template <class R, class A>
R from_float(A number) {
  return R(number);
}
// To the nearest, to even from half way; a NaN stays one.
template <>
inline Bfloat16 from_float<Bfloat16, float>(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  if (number != number) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Calls f with values of the types of operands, sums and result.
template <class F>
void with_numbers(Number number, Number result, const F& f) {
  const bool is_wider = number != result;  // 16-bit operands, and float32
  switch (number) {
    case Number::kFloat32: return f(float(), float(), float());
    case Number::kFloat64: return f(double(), double(), double());
    case Number::kBfloat16:
      return is_wider ? f(Bfloat16(), float(), float()) : f(Bfloat16(), float(), Bfloat16());
    case Number::kFloat16:
      return is_wider ? f(_Float16(), float(), float()) : f(_Float16(), float(), _Float16());
  }
}

}  // namespace grouped_conv
