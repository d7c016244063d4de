// The options that name a device to compute on beside the CPU, and that device, opened.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cli/output.h"
#include "cli/session.h"
#include "engine/device_setup.h"

namespace fiddler {

struct DeviceOptions {
  std::string device = "auto";
  std::string policy;      // empty: balanced
  std::string gpu_memory;  // a size; an emulated device needs one
  std::string hardware;    // a name or file; empty: what calibrate measured, else kAssumedHardware
  std::string popularity;  // a file; empty: popularity.json beside the weights, if it is there
  std::optional<uint64_t> adversary;

  void Register(CLI::App& verb);

  // Throws Error for options that do not go together; call it before anything is loaded.
  void Check() const;
  // Memory of an emulated device; 0: there is none. After Check().
  uint64_t EmulatedBytes() const;
};

class DeviceSession {
 public:
  // After session.Load(). Opens the device, if there is one to use. Both must outlive this object. Throws
  // Error.
  DeviceSession(const DeviceOptions& options, Session& session);

  // For an engine; null: there is none.
  const DeviceSetup* setup() const { return device_ ? &setup_ : nullptr; }

 private:
  std::unique_ptr<Device> device_;
  DeviceSetup setup_;
};

// {"resident", "fetched", "cpu", "idle_copies", "hit_rate"}
OrderedJson DescribeTraffic(const ExpertTraffic& traffic);
void NoteTraffic(const ExpertTraffic& traffic);

}  // namespace fiddler
