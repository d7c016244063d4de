// Being written: forwards to the oracle until then.
#include "kernels/dispatch.h"
namespace fiddler {
const CpuKernels& Avx512Kernels();
const CpuKernels& Avx512Kernels() { return GenericKernels(); }
}  // namespace fiddler
