#include "cli/gpu.h"

#include <cctype>
#include <utility>

#include "base/error.h"
#include "base/units.h"
#include "cli/terminal.h"
#include "device/cuda_loader.h"
#include "device/emulated.h"

namespace fiddler {
namespace {

uint64_t MemoryBytes(const std::string& gpu_memory) {
  return gpu_memory.empty() ? 0 : ParseBytes(gpu_memory, "--gpu-memory");
}

// That the text has the word: "L4" is none of "NVIDIA L40S".
bool HasWord(std::string_view text, std::string_view word) {
  const auto is_letter = [&](size_t i) {
    return i < text.size() && std::isalnum(static_cast<unsigned char>(text[i])) != 0;
  };
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    if (!is_letter(at - 1) && !is_letter(at + word.size())) return true;
  }
  return false;
}

}  // namespace

void CheckGpuMemory(std::string_view device, const std::string& gpu_memory) {
  if (device == "emulated" && gpu_memory.empty()) {
    throw Error("--device emulated: expected --gpu-memory, the memory it has, got none");
  }
  if (!gpu_memory.empty() && MemoryBytes(gpu_memory) == 0) {
    throw Error("--gpu-memory: expected more than 0, got {}", gpu_memory);
  }
}

std::unique_ptr<Device> OpenGpu(std::string_view device, const std::string& gpu_memory) {
  if (device != "auto" && device != "cuda") return nullptr;
  CudaOpening opening = TryOpenCudaDevice(MemoryBytes(gpu_memory));
  if (!opening.device && device == "cuda") throw Error("--device cuda: {}", opening.reason);
  if (opening.outcome == CudaOpening::Outcome::kUnusable) Note("note: no GPU is used: {}", opening.reason);
  if (opening.device) {
    const FiddlerMemory memory = opening.device->memory();
    Note("{}: {} of {} are used", opening.device->name(), FormatBytes(memory.cap_bytes),
         FormatBytes(memory.installed_bytes));
  }
  return std::move(opening.device);
}

HardwareKey WithDevice(HardwareKey machine, Device& device) {
  machine.device = device.name();
  if (device.name() == kEmulatedDeviceName) return machine;  // has what one asks for
  constexpr uint64_t kGibibyte = uint64_t{1} << 30;
  machine.device_memory_gib =
      static_cast<int64_t>((device.memory().installed_bytes + kGibibyte / 2) / kGibibyte);
  return machine;
}

const HardwareProfile& HardwareLike(std::string_view device_name) {
  struct Likeness {
    std::string_view word;
    std::string_view hardware;
  };
  constexpr Likeness kLikenesses[] = {
      {"H100", "h100-16vcpu"},   {"H200", "h100-16vcpu"},  {"GH200", "h100-16vcpu"},
      {"5090", "rtx5090-9950x"}, {"4090", "rtx4090-ddr5"}, {"L4", "l4-8ch"},
  };
  for (const auto& [word, hardware] : kLikenesses) {
    if (HasWord(device_name, word)) return FindHardware(hardware);
  }
  return FindHardware("rtx4090-ddr5");
}

}  // namespace fiddler
