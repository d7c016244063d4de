// What is found out before a device is opened: that there is a driver, and a GPU of that number.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fiddler::cuda {

// This machine has no GPU (FIDDLER_NO_DEVICE in plugin.h), in contrast to one that cannot be used.
class NoDevice : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Properties {
  std::string name;
  int num_sms = 0;
};

// Makes it the device of the calling thread, with a context in which all kernels are loaded: loading one
// later could wait for the GPU while the GPU waits for the host. Throws std::runtime_error.
Properties EnterDevice(int ordinal);

}  // namespace fiddler::cuda
