// Prints, when the program ends, the addresses of the functions that were called: of those that are
// compiled with -finstrument-functions. This file is not. It also stands in for the kernels of
// instruction sets that are not linked.

#include <atomic>
#include <cstdint>
#include <cstdio>

#include "kernels.h"

namespace {

constexpr uint64_t kSlots = 1 << 16;
std::atomic<void*> reached[kSlots];

struct Printed {
  ~Printed() {
    for (const std::atomic<void*>& function : reached)
      if (function) std::printf("reached %p\n", function.load());
  }
} printed;

}  // namespace

extern "C" void __cyg_profile_func_enter(void* function, void*) {
  for (uint64_t slot = uint64_t(function) >> 4;; ++slot) {
    std::atomic<void*>& held = reached[slot % kSlots];
    void* nobody = nullptr;
    if (held == function || held.compare_exchange_strong(nobody, function) || nobody == function)
      return;
  }
}
extern "C" void __cyg_profile_func_exit(void*, void*) {}

namespace grouped_conv {
[[gnu::weak]] const Kernels* kernels_baseline() { return nullptr; }
#if defined(__x86_64__)
[[gnu::weak]] const Kernels* kernels_avx2() { return nullptr; }
[[gnu::weak]] const Kernels* kernels_avx512() { return nullptr; }
#endif
}  // namespace grouped_conv
