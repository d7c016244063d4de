// Being written: forwards to the oracle until then.
#include "kernels/dispatch.h"
namespace fiddler {
const CpuKernels& Avx2Kernels();
const CpuKernels& Avx2Kernels() { return GenericKernels(); }
}  // namespace fiddler
