// Measures what a device and the link to it cost, round by round as cpu_meter.h does the CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "calibrate/measurements.h"
#include "device/device.h"
#include "engine/cpu_meter.h"

namespace fiddler {

class DeviceMeter {
 public:
  // Of slices of the experts that `cpu` measures, rounded as there, with these numbers of tokens, which
  // ascend. A timing takes `timed_seconds` where as much work fits. Takes at most a quarter of the device's
  // memory. Both references must outlive this object. Throws Error if memory is short.
  DeviceMeter(Device& device, CpuMeter& cpu, std::span<const int64_t> tokens, double timed_seconds);
  DeviceMeter(const DeviceMeter&) = delete;
  DeviceMeter& operator=(const DeviceMeter&) = delete;
  ~DeviceMeter();

  // Everything once. Throws Error if the device fails.
  void Round();

  DeviceCosts Medians() const;  // over the rounds, of which there was one

 private:
  // Seconds until `slices` slices with so many tokens each are done.
  double TimeSlices(int64_t slices, int64_t tokens);
  void MeasureSlices();
  void MeasureLink();
  void MeasureJoint();
  void MeasureHandoff();
  // The slice to copy next.
  const std::byte* NextOnHost();

  Device& device_;
  CpuMeter& cpu_;
  const SlicedFfn& expert_;
  std::vector<int64_t> tokens_;
  const double timed_seconds_;
  const int64_t slots_;  // slices that fit into the device's part
  FiddlerStream stream_;
  DeviceBuffer slices_;  // [slots]
  DeviceBuffer x_;       // [most tokens, hidden]
  DeviceBuffer out_;     // [most tokens, hidden]
  DeviceBuffer scratch_;
  PinnedBuffer flags_;  // of kFlags copies in flight, or of a hand-over
  std::vector<int64_t> copy_bytes_;
  int64_t next_slice_ = 0;  // on the host

  std::vector<std::vector<double>> seconds_;      // [tokens], one of each round
  std::vector<std::vector<double>> in_seconds_;   // [copy_bytes]
  std::vector<std::vector<double>> out_seconds_;  // [copy_bytes]
  std::vector<double> start_;
  std::vector<double> link_slice_;
  std::vector<double> joint_gbps_;
  std::vector<double> handoff_;
};

}  // namespace fiddler
