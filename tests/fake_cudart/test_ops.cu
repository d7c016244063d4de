// Operations that do nothing but what the test of the runtime looks at.
#include <cstring>

#include "device/cuda/ops.h"
#include "fake_cudart.h"

namespace fiddler::cuda {

void RmsNorm(OpContext&, const FiddlerRmsNorm&) {}
void MatMul(OpContext&, const FiddlerMatMul&) {}
void RotateStore(OpContext&, const FiddlerRotateStore&) {}
void Attend(OpContext&, const FiddlerAttend&) { throw std::runtime_error("attend: wrong"); }
void Sigmoid(OpContext&, const FiddlerSigmoid&) {}
void Route(OpContext&, const FiddlerRoute&) {}
void ReadProbe(OpContext&, FiddlerAddress, uint64_t) {}
double ProductProbe(OpContext&, int64_t) { return 0; }

// y[0] += x[0].
void Add(OpContext& context, const FiddlerAdd& args) {
  auto* const y = reinterpret_cast<float*>(args.y);
  const auto* const x = reinterpret_cast<const float*>(args.x);
  fake::Queue(context.stream, [=] { *y += *x; });
}

// Copies the rows of all entries to `out`, one behind the other.
void Ffn(OpContext& context, const FiddlerFfn& args) {
  auto* out = reinterpret_cast<std::byte*>(args.out);
  for (int64_t i = 0; i < args.num_entries; ++i) {
    const size_t bytes = static_cast<size_t>(args.entries[i].tokens) * sizeof(int32_t);
    const void* const rows = context.ToDevice(args.entries[i].rows, bytes);
    fake::Queue(context.stream, [=] { std::memcpy(out, rows, bytes); });
    out += bytes;
  }
}

}  // namespace fiddler::cuda
