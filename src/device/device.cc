#include "device/device.h"

#include <utility>

#include "base/error.h"

namespace fiddler {

DeviceBuffer::DeviceBuffer(Device& device, uint64_t bytes, std::string_view what)
    : device_(&device), bytes_(bytes) {
  device.Check(device.api_.allocate(device.handle_, bytes, &address_), what);
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      address_(std::exchange(other.address_, 0)),
      bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

// A device that cannot release has failed, which whoever uses it hears.
DeviceBuffer::~DeviceBuffer() {
  if (device_ != nullptr) device_->api_.release(device_->handle_, address_);
}

PinnedBuffer::PinnedBuffer(Device& device, uint64_t bytes, std::string_view what) : device_(&device) {
  void* data = nullptr;
  device.Check(device.api_.allocate_pinned(device.handle_, bytes, &data), what);
  data_ = static_cast<std::byte*>(data);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  return *this;
}

PinnedBuffer::~PinnedBuffer() {
  if (device_ != nullptr) device_->api_.release_pinned(device_->handle_, data_);
}

Device::Device(const FiddlerDeviceApi& api, FiddlerDevice* handle)
    : api_(api), handle_(handle), name_(api.name(handle)) {}

Device::~Device() { api_.close(handle_); }

void Device::Check(int32_t status, std::string_view what) {
  if (status == 0) return;
  const std::string text = api_.error(handle_);
  if (what.empty()) throw Error("{}: {}", name_, text);
  throw Error("{}: {}: {}", name_, what, text);
}

FiddlerMemory Device::memory() {
  FiddlerMemory memory = {};
  Check(api_.memory(handle_, &memory), "");
  return memory;
}

void Device::SetScratch(FiddlerAddress address, uint64_t bytes) {
  Check(api_.set_scratch(handle_, address, bytes), "");
}

void Device::Pin(std::span<const std::byte> memory) {
  Check(api_.pin(handle_, memory.data(), memory.size()), "");
}
void Device::Unpin(std::span<const std::byte> memory) { Check(api_.unpin(handle_, memory.data()), ""); }

FiddlerStream Device::CreateStream() {
  FiddlerStream stream = 0;
  Check(api_.create_stream(handle_, &stream), "");
  return stream;
}
FiddlerEvent Device::CreateEvent() {
  FiddlerEvent event = 0;
  Check(api_.create_event(handle_, &event), "");
  return event;
}
void Device::Record(FiddlerStream stream, FiddlerEvent event) {
  Check(api_.record(handle_, stream, event), "");
}
void Device::WaitEvent(FiddlerStream stream, FiddlerEvent event) {
  Check(api_.wait_event(handle_, stream, event), "");
}
void Device::Synchronize(FiddlerStream stream) { Check(api_.synchronize(handle_, stream), ""); }

void Device::CopyIn(FiddlerStream stream, FiddlerAddress to, const void* from, uint64_t bytes) {
  Check(api_.copy_in(handle_, stream, to, from, bytes), "");
}
void Device::CopyOut(FiddlerStream stream, void* to, FiddlerAddress from, uint64_t bytes) {
  Check(api_.copy_out(handle_, stream, to, from, bytes), "");
}
void Device::Clear(FiddlerStream stream, FiddlerAddress to, uint64_t bytes) {
  Check(api_.clear(handle_, stream, to, bytes), "");
}

void Device::Post(FiddlerStream stream, uint32_t* flag) { Check(api_.post(handle_, stream, flag), ""); }
void Device::Await(FiddlerStream stream, uint32_t* flag) { Check(api_.await(handle_, stream, flag), ""); }
void Device::SetFlag(uint32_t* flag) { Check(api_.set_flag(handle_, flag), ""); }
void Device::WaitFlag(uint32_t* flag, double seconds, std::string_view what) {
  Check(api_.wait_flag(handle_, flag, seconds), what);
}

void Device::BeginCapture(FiddlerStream stream) { Check(api_.begin_capture(handle_, stream), ""); }
FiddlerSegment Device::EndCapture(FiddlerStream stream) {
  FiddlerSegment segment = 0;
  Check(api_.end_capture(handle_, stream, &segment), "");
  return segment;
}
void Device::Launch(FiddlerStream stream, FiddlerSegment segment) {
  Check(api_.launch(handle_, stream, segment), "");
}
void Device::ReleaseSegment(FiddlerSegment segment) { Check(api_.release_segment(handle_, segment), ""); }

void Device::RmsNorm(FiddlerStream stream, const FiddlerRmsNorm& args) {
  Check(api_.rms_norm(handle_, stream, &args), "");
}
void Device::MatMul(FiddlerStream stream, const FiddlerMatMul& args) {
  Check(api_.mat_mul(handle_, stream, &args), "");
}
void Device::RotateStore(FiddlerStream stream, const FiddlerRotateStore& args) {
  Check(api_.rotate_store(handle_, stream, &args), "");
}
void Device::Attend(FiddlerStream stream, const FiddlerAttend& args) {
  Check(api_.attend(handle_, stream, &args), "");
}
void Device::Add(FiddlerStream stream, const FiddlerAdd& args) {
  Check(api_.add(handle_, stream, &args), "");
}
void Device::Sigmoid(FiddlerStream stream, const FiddlerSigmoid& args) {
  Check(api_.sigmoid(handle_, stream, &args), "");
}
void Device::Route(FiddlerStream stream, const FiddlerRoute& args) {
  Check(api_.route(handle_, stream, &args), "");
}
void Device::Ffn(FiddlerStream stream, const FiddlerFfn& args) {
  Check(api_.ffn(handle_, stream, &args), "");
}

void Device::ReadProbe(FiddlerStream stream, FiddlerAddress data, uint64_t bytes) {
  Check(api_.read_probe(handle_, stream, data, bytes), "");
}
double Device::ProductProbe(FiddlerStream stream, int64_t rounds) {
  double operations = 0;
  Check(api_.product_probe(handle_, stream, rounds, &operations), "");
  return operations;
}

}  // namespace fiddler
