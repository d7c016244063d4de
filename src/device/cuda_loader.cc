#include "device/cuda_loader.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/error.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

using Outcome = CudaOpening::Outcome;

constexpr const char* kFile = "libfiddler_cuda.so";

CudaOpening Failed(Outcome outcome, std::string reason) {
  return {.outcome = outcome, .device = nullptr, .reason = std::move(reason)};
}

std::string LoaderError() {
  const char* const text = dlerror();
  return text == nullptr ? "unknown error" : text;
}

CudaOpening Open(const fs::path& path, uint64_t memory_bytes) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return Failed(Outcome::kUnusable, fmt::format("cannot be loaded: {}", LoaderError()));
  void* const symbol = dlsym(library, FIDDLER_OPEN_DEVICE);
  if (symbol == nullptr) {
    return Failed(Outcome::kUnusable, fmt::format("{}: no plugin of Fiddler: expected it to have {}, got: {}",
                                                  path.string(), FIDDLER_OPEN_DEVICE, LoaderError()));
  }
  const auto open_device = reinterpret_cast<FiddlerOpenDevice>(symbol);
  const FiddlerOpenOptions options = {.memory_bytes = memory_bytes, .ordinal = 0, .padding = 0};
  const FiddlerDeviceApi* api = nullptr;
  FiddlerDevice* handle = nullptr;
  char error[1024] = "";
  const int32_t status = open_device(FIDDLER_DEVICE_ABI, &options, &api, &handle, error, sizeof(error));
  if (status != 0) {
    error[sizeof(error) - 1] = '\0';
    return Failed(
        status == FIDDLER_NO_DEVICE ? Outcome::kNoDevice : Outcome::kUnusable,
        *error == '\0' ? fmt::format("{}: error {} without a reason", path.string(), status) : error);
  }
  if (api == nullptr || handle == nullptr) {
    return Failed(Outcome::kUnusable, fmt::format("{}: expected a device, got none", path.string()));
  }
  // A plugin that is not ours all through could have opened all the same. It cannot be closed: where `close`
  // stands in its table is not known.
  if (api->abi_version != FIDDLER_DEVICE_ABI || api->struct_bytes != sizeof(FiddlerDeviceApi)) {
    return Failed(
        Outcome::kUnusable,
        fmt::format("{}: another version: expected version {} of {} bytes, got version {} of {} bytes",
                    path.string(), FIDDLER_DEVICE_ABI, sizeof(FiddlerDeviceApi), api->abi_version,
                    api->struct_bytes));
  }
  return {.outcome = Outcome::kOpened, .device = std::make_unique<Device>(*api, handle), .reason = {}};
}

}  // namespace

CudaOpening TryOpenCudaDevice(uint64_t memory_bytes) {
  if (const char* const named = std::getenv("FIDDLER_CUDA_PLUGIN"); named != nullptr && *named != '\0') {
    // Not a bare name: that dlopen would look for in the folders of the system.
    return Open(fs::absolute(named), memory_bytes);
  }
  std::error_code status;
  const fs::path folder = fs::read_symlink("/proc/self/exe", status).parent_path();
  if (status) {
    return Failed(Outcome::kNoPlugin, fmt::format("no plugin: /proc/self/exe: {}", status.message()));
  }
  std::vector<std::string> places;
  for (const fs::path& place : {folder / kFile, folder / "../lib" / kFile}) {
    if (fs::exists(place, status)) return Open(place, memory_bytes);
    places.push_back(place.lexically_normal().string());
  }
  return Failed(Outcome::kNoPlugin,
                fmt::format("no plugin: expected {} or {} (or FIDDLER_CUDA_PLUGIN), got neither", places[0],
                            places[1]));
}

std::unique_ptr<Device> OpenCudaDevice(uint64_t memory_bytes) {
  CudaOpening opening = TryOpenCudaDevice(memory_bytes);
  if (!opening.device) throw Error("{}", opening.reason);
  return std::move(opening.device);
}

}  // namespace fiddler
