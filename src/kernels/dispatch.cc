#include "kernels/dispatch.h"

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace fiddler {

// One line a set, best first; each is defined in kernels/cpu/<isa>.cc.
#if defined(__x86_64__)
const CpuKernels& Avx512BF16Kernels();
const CpuKernels& Avx512Kernels();
const CpuKernels& Avx2Kernels();
#endif

namespace {

std::vector<const CpuKernels*> SetsThatRunHere() {
  const CpuKernels* const all[] = {
#if defined(__x86_64__)
    &Avx512BF16Kernels(),
    &Avx512Kernels(),
    &Avx2Kernels(),
#endif
    &GenericKernels(),
  };
  std::vector<const CpuKernels*> sets;
  for (const CpuKernels* kernels : all) {
    if (kernels->runs_here()) sets.push_back(kernels);
  }
  return sets;
}

}  // namespace

std::span<const CpuKernels* const> SupportedKernels() {
  static const std::vector<const CpuKernels*> supported = SetsThatRunHere();
  return supported;
}

const CpuKernels& BestKernels() {
  const char* forced = std::getenv("FIDDLER_ISA");
  if (forced == nullptr || *forced == '\0') return *SupportedKernels().front();
  std::string names;
  for (const CpuKernels* kernels : SupportedKernels()) {
    if (std::string_view(kernels->isa) == forced) return *kernels;
    names += names.empty() ? "" : ", ";
    names += kernels->isa;
  }
  throw Error("FIDDLER_ISA: expected one of {} on this machine, got '{}'", names, forced);
}

}  // namespace fiddler
