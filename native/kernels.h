// The kernels, once for each instruction set. A stub.
#pragma once

namespace grouped_conv {

struct Kernels {};

const Kernels* kernels_baseline();
#ifdef __x86_64__
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
#endif

}  // namespace grouped_conv
