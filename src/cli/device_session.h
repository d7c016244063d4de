// The options that name a device to compute on beside the CPU, and that device, opened.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cli/output.h"
#include "cli/session.h"
#include "engine/background_pin.h"
#include "engine/device_setup.h"
#include "engine/host_memory.h"

namespace fiddler {

struct DeviceOptions {
  std::string device = "auto";
  std::string policy;      // empty: balanced
  std::string gpu_memory;  // a size; empty: all that is free, but an emulated device needs one
  std::string hardware;  // a name or file; empty: what calibrate measured, else built-in one like the device
  std::string popularity;  // a file; empty: popularity.json beside the weights, if it is there
  std::optional<uint64_t> adversary;

  void Register(CLI::App& verb);

  // Throws Error for options that do not go together; call it before anything is loaded.
  void Check() const;
};

class DeviceSession {
 public:
  // Opens the device, if there is one to use; after Check(). Both must outlive this object. Throws Error.
  DeviceSession(const DeviceOptions& options, Session& session);

  Device* device() const { return device_.get(); }  // null: there is none
  DeviceBudget budget() const;                      // for session.Load()

  // After session.Load(): finds out costs and popularity, and begins to pin the experts. Throws Error.
  void SetUp();
  // After that, for an engine; null: there is no device.
  const DeviceSetup* setup() const { return device_ ? &setup_ : nullptr; }
  // Whose speeds the policy counts on: "calibrated", or the name of a machine.
  const std::string& counts_on() const { return counts_on_; }

  // Waits until the experts are pinned, for who measures: {"bytes", "seconds"}, and "error" if not all are.
  OrderedJson FinishPinning();
  // Says so if what was to be pinned could not be; without waiting for it.
  void NotePinning();

 private:
  const DeviceOptions& options_;
  Session& session_;
  std::unique_ptr<Device> device_;
  DeviceSetup setup_;
  std::string counts_on_;
  std::unique_ptr<BackgroundPin> pin_;  // goes before the device
};

// {"resident", "fetched", "cpu", "idle_copies", "hit_rate"}
OrderedJson DescribeTraffic(const ExpertTraffic& traffic);
void NoteTraffic(const ExpertTraffic& traffic);

}  // namespace fiddler
