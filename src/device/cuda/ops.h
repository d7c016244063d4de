// The operations of plugin.h as CUDA kernels: each function checks its arguments as far as the host can and
// queues kernels on a stream. Compiled twice from the same sources (*.cu): by nvcc for the plugin, and by the
// host's compiler, where the emulation (kernels/cuda/emulation) plays the GPU, for tests. The addresses in
// the arguments are pointers of whoever runs the kernels.
//
// Throws std::runtime_error with one line ("mat_mul: rows: .."): no other type, no fmt, for the plugin links
// nothing but the C library.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/plugin.h"
#include "kernels/cuda/cuda.h"

namespace fiddler::cuda {

// What operations need of whoever queues them.
class OpContext {
 public:
  virtual ~OpContext() = default;

  // Bytes of the host, to be read by kernels that are queued on the stream after this call; where there are
  // until the operation has run. Not within a capture.
  virtual const void* ToDevice(const void* data, size_t bytes) = 0;

  cudaStream_t stream = nullptr;
  std::byte* scratch = nullptr;  // on the device
  uint64_t scratch_bytes = 0;
  int num_sms = 1;
};

void RmsNorm(OpContext& context, const FiddlerRmsNorm& args);
void MatMul(OpContext& context, const FiddlerMatMul& args);
void RotateStore(OpContext& context, const FiddlerRotateStore& args);
void Attend(OpContext& context, const FiddlerAttend& args);
void Add(OpContext& context, const FiddlerAdd& args);
void Sigmoid(OpContext& context, const FiddlerSigmoid& args);
void Route(OpContext& context, const FiddlerRoute& args);
void Ffn(OpContext& context, const FiddlerFfn& args);
void ReadProbe(OpContext& context, FiddlerAddress data, uint64_t bytes);
double ProductProbe(OpContext& context, int64_t rounds);  // returns its operations

}  // namespace fiddler::cuda
