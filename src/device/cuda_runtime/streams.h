// Streams, events and segments by number, as plugin.h has them, on those of CUDA.
//
// One thread at a time. Numbers that nothing has are a std::runtime_error, as is whatever CUDA refuses.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "device/plugin.h"

namespace fiddler::cuda {

class Streams {
 public:
  Streams() = default;
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;
  ~Streams();  // all streams have drained

  FiddlerStream CreateStream();
  FiddlerEvent CreateEvent();
  cudaStream_t At(FiddlerStream stream) const;
  bool capturing(FiddlerStream stream) const;

  // Within a capture both are part of the segment: recorded, and waited for, at each launch.
  void Record(FiddlerStream stream, FiddlerEvent event);
  void WaitEvent(FiddlerStream stream, FiddlerEvent event);
  void Synchronize(FiddlerStream stream);

  void BeginCapture(FiddlerStream stream);
  FiddlerSegment EndCapture(FiddlerStream stream);
  void Launch(FiddlerStream stream, FiddlerSegment segment);
  void RequireSegment(FiddlerSegment segment, const char* call) const;
  void ReleaseSegment(FiddlerSegment segment);  // that does not run

  // Whether nothing that was queued is left. Throws what failed.
  bool Drained() const;
  void AbandonCaptures();

 private:
  struct Stream {
    cudaStream_t stream = nullptr;
    bool capturing = false;
  };

  const Stream& Find(FiddlerStream stream) const;
  cudaEvent_t Event(FiddlerEvent event) const;
  // What runs at once, not within a capture.
  cudaStream_t Running(FiddlerStream stream, const char* call) const;

  std::vector<Stream> streams_;
  std::vector<cudaEvent_t> events_;
  std::vector<cudaGraphExec_t> segments_;  // null: released
};

}  // namespace fiddler::cuda
