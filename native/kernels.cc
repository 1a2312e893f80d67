// Compiled once for each instruction set, with its name as INSTRUCTION_SET. A stub.
#include "kernels.h"

#define CONCATENATE(a, b) a##b
#define NAME(set) CONCATENATE(kernels_, set)

namespace grouped_conv {

const Kernels* NAME(INSTRUCTION_SET)() {
  static constexpr Kernels kernels;
  return &kernels;
}

}  // namespace grouped_conv
