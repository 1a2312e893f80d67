#include "processor.h"

#include <atomic>
#include <cstdint>
#include <iterator>
#include <string>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "exports.h"

namespace grouped_conv {
namespace {

struct InstructionSet {
  const char* name;
  bool (*supported)();
  const Kernels* (*kernels)();
};

bool always() { return true; }

#ifdef __x86_64__
// Some compilers answer __builtin_cpu_supports with 0 throughout, so the processor is asked itself.
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf) {
  Registers found;
  __get_cpuid_count(leaf, 0, &found.a, &found.b, &found.c, &found.d);
  return found;
}

bool has(unsigned found, unsigned bits) { return (found & bits) == bits; }

// Whether the operating system keeps the given parts of a thread's vector state (bits of XCR0).
bool state_is_saved(unsigned parts) {
  if (!has(cpuid(1).c, bit_OSXSAVE)) return false;
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return has(low, parts);
}

// x86-64-v3, which contains v2.
bool has_avx2() {
  constexpr unsigned kSse = 1u << 1, kAvx = 1u << 2;
  return has(cpuid(1).c, bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT |
                             bit_CMPXCHG16B | bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) &&
         has(cpuid(7).b, bit_AVX2 | bit_BMI | bit_BMI2) &&
         has(cpuid(0x80000001).c, bit_LAHF_LM | bit_LZCNT) && state_is_saved(kSse | kAvx);
}

// x86-64-v4.
bool has_avx512() {
  constexpr unsigned kMasks = 1u << 5, kUpperHalves = 1u << 6, kUpperRegisters = 1u << 7;
  return has_avx2() &&
         has(cpuid(7).b, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL) &&
         state_is_saved(kMasks | kUpperHalves | kUpperRegisters);
}
#endif

// The fastest last.
constexpr InstructionSet kInstructionSets[] = {
    {"baseline", always, kernels_baseline},
#ifdef __x86_64__
    {"avx2", has_avx2, kernels_avx2},
    {"avx512", has_avx512, kernels_avx512},
#endif
};

const InstructionSet* fastest() {
  auto set = std::rbegin(kInstructionSets);
  while (!set->supported()) ++set;
  return &*set;
}

std::atomic<const InstructionSet*>& in_use() {
  static std::atomic<const InstructionSet*> set = fastest();
  return set;
}

}  // namespace

const Kernels* kernels() { return in_use().load(std::memory_order_relaxed)->kernels(); }

}  // namespace grouped_conv

using grouped_conv::in_use;
using grouped_conv::kInstructionSets;

const char* grouped_conv_instruction_sets() {
  static const std::string names = [] {
    std::string listed;
    for (const auto& set : kInstructionSets) {
      if (set.supported()) listed += (listed.empty() ? "" : " ") + std::string(set.name);
    }
    return listed;
  }();
  return names.c_str();
}

const char* grouped_conv_instruction_set() { return in_use().load()->name; }

int grouped_conv_use(const char* name) {
  for (const auto& set : kInstructionSets) {
    if (std::string(set.name) == name && set.supported()) {
      in_use() = &set;
      return 0;
    }
  }
  return 1;
}

int grouped_conv_ffi_version() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

const char* grouped_conv_sources() { return GROUPED_CONV_SOURCES; }
