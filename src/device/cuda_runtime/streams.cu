#include "device/cuda_runtime/check.h"
#include "device/cuda_runtime/streams.h"

namespace fiddler::cuda {
namespace {

template <typename T>
bool IsIndex(int32_t number, const std::vector<T>& all) {
  return number >= 0 && static_cast<size_t>(number) < all.size();
}

}  // namespace

Streams::~Streams() {
  for (cudaGraphExec_t segment : segments_) {
    if (segment != nullptr) cudaGraphExecDestroy(segment);
  }
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  for (const Stream& stream : streams_) cudaStreamDestroy(stream.stream);
}

FiddlerStream Streams::CreateStream() {
  Stream stream;
  Check(cudaStreamCreateWithFlags(&stream.stream, cudaStreamNonBlocking), "create_stream");
  streams_.push_back(stream);
  return static_cast<FiddlerStream>(streams_.size()) - 1;
}

FiddlerEvent Streams::CreateEvent() {
  cudaEvent_t event = nullptr;
  Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "create_event");
  events_.push_back(event);
  return static_cast<FiddlerEvent>(events_.size()) - 1;
}

const Streams::Stream& Streams::Find(FiddlerStream stream) const {
  if (!IsIndex(stream, streams_)) Fail("no stream %d", stream);
  return streams_[static_cast<size_t>(stream)];
}

cudaEvent_t Streams::Event(FiddlerEvent event) const {
  if (!IsIndex(event, events_)) Fail("no event %d", event);
  return events_[static_cast<size_t>(event)];
}

cudaStream_t Streams::Running(FiddlerStream stream, const char* call) const {
  const Stream& found = Find(stream);
  if (found.capturing) Fail("%s: stream %d is being captured", call, stream);
  return found.stream;
}

cudaStream_t Streams::At(FiddlerStream stream) const { return Find(stream).stream; }
bool Streams::capturing(FiddlerStream stream) const { return Find(stream).capturing; }

void Streams::Record(FiddlerStream stream, FiddlerEvent event) {
  const Stream& on = Find(stream);
  const unsigned flags = on.capturing ? cudaEventRecordExternal : cudaEventRecordDefault;
  Check(cudaEventRecordWithFlags(Event(event), on.stream, flags), "record");
}

void Streams::WaitEvent(FiddlerStream stream, FiddlerEvent event) {
  const Stream& on = Find(stream);
  const unsigned flags = on.capturing ? cudaEventWaitExternal : cudaEventWaitDefault;
  Check(cudaStreamWaitEvent(on.stream, Event(event), flags), "wait_event");
}

void Streams::Synchronize(FiddlerStream stream) {
  Check(cudaStreamSynchronize(Running(stream, "synchronize")), "synchronize");
}

// Relaxed: another thread may be pinning memory, which any other mode takes for a mistake.
void Streams::BeginCapture(FiddlerStream stream) {
  Check(cudaStreamBeginCapture(Running(stream, "begin_capture"), cudaStreamCaptureModeRelaxed),
        "begin_capture");
  streams_[static_cast<size_t>(stream)].capturing = true;
}

FiddlerSegment Streams::EndCapture(FiddlerStream stream) {
  if (!capturing(stream)) Fail("end_capture: stream %d is not being captured", stream);
  Stream& ending = streams_[static_cast<size_t>(stream)];
  ending.capturing = false;
  cudaGraph_t graph = nullptr;
  Check(cudaStreamEndCapture(ending.stream, &graph), "end_capture");
  cudaGraphExec_t segment = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&segment, graph, 0);
  cudaGraphDestroy(graph);
  Check(status, "end_capture");
  segments_.push_back(segment);
  // So that the first launch is no slower than the others.
  Check(cudaGraphUpload(segment, ending.stream), "end_capture");
  return static_cast<FiddlerSegment>(segments_.size()) - 1;
}

void Streams::Launch(FiddlerStream stream, FiddlerSegment segment) {
  const cudaStream_t on = Running(stream, "launch");
  RequireSegment(segment, "launch");
  Check(cudaGraphLaunch(segments_[static_cast<size_t>(segment)], on), "launch");
}

void Streams::RequireSegment(FiddlerSegment segment, const char* call) const {
  if (!IsIndex(segment, segments_) || segments_[static_cast<size_t>(segment)] == nullptr) {
    Fail("%s: no segment %d", call, segment);
  }
}

void Streams::ReleaseSegment(FiddlerSegment segment) {
  RequireSegment(segment, "release_segment");
  Check(cudaGraphExecDestroy(segments_[static_cast<size_t>(segment)]), "release_segment");
  segments_[static_cast<size_t>(segment)] = nullptr;
}

bool Streams::Drained() const {
  for (const Stream& stream : streams_) {
    if (stream.capturing) continue;
    const cudaError_t status = cudaStreamQuery(stream.stream);
    if (status == cudaErrorNotReady) return false;
    Check(status, "something queued before");
  }
  return true;
}

void Streams::AbandonCaptures() {
  for (Stream& stream : streams_) {
    if (!stream.capturing) continue;
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream.stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    cudaGetLastError();
    stream.capturing = false;
  }
}

}  // namespace fiddler::cuda
