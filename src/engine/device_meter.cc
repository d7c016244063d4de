#include "engine/device_meter.h"

#include <algorithm>
#include <atomic>

#include "base/rng.h"
#include "base/timing.h"
#include "device/scratch.h"

namespace fiddler {
namespace {

constexpr int64_t kSliceBytes = 256 << 20;  // of slices on the device: more than its caches hold
constexpr int64_t kLargestCopy = 64 << 20;
constexpr int64_t kSmallestCopy = 64 << 10;
constexpr int64_t kFlags = 1024;
constexpr int kHandoffs = 50;     // of a round
constexpr double kPatience = 10;  // seconds, for a flag

bool IsSet(uint32_t& flag) { return std::atomic_ref(flag).load(std::memory_order_acquire) != 0; }

int64_t SlotsFor(Device& device, const SlicedFfn& expert) {
  const FiddlerMemory memory = device.memory();
  const auto quarter = static_cast<int64_t>((memory.cap_bytes - memory.used_bytes) / 4);
  return std::clamp(std::min(quarter, kSliceBytes) / expert.slice_bytes(), int64_t{1}, int64_t{1} << 16);
}

}  // namespace

DeviceMeter::DeviceMeter(Device& device, CpuMeter& cpu, std::span<const int64_t> tokens, double timed_seconds)
    : device_(device),
      cpu_(cpu),
      expert_(cpu.experts().front()),
      tokens_(tokens.begin(), tokens.end()),
      timed_seconds_(timed_seconds),
      slots_(SlotsFor(device, expert_)),
      stream_(device.CreateStream()),
      slices_(device, static_cast<uint64_t>(slots_ * expert_.slice_bytes()), "slices to measure with"),
      x_(device, static_cast<uint64_t>(tokens_.back() * expert_.hidden) * sizeof(float), "activations"),
      out_(device, x_.bytes(), "activations"),
      scratch_(
          device,
          ScratchBytes(
              {.tokens = tokens_.back(), .cols = expert_.hidden, .slice_neurons = expert_.slice_neurons}),
          "scratch"),
      flags_(device, kFlags * sizeof(uint32_t), "flags"),
      seconds_(tokens_.size()) {
  device_.SetScratch(scratch_.address(), scratch_.bytes());
  device_.Pin(cpu_.bytes());
  const int64_t most =
      std::min(kLargestCopy, static_cast<int64_t>(std::min<uint64_t>(slices_.bytes(), cpu_.bytes().size())));
  for (int64_t bytes = kSmallestCopy; bytes <= most; bytes *= 4) copy_bytes_.push_back(bytes);
  in_seconds_.resize(copy_bytes_.size());
  out_seconds_.resize(copy_bytes_.size());
  std::fill_n(flags_.as<uint32_t>(), kFlags, 0u);
  for (int64_t slot = 0; slot < slots_; ++slot) {
    device_.CopyIn(stream_, slices_.address() + static_cast<uint64_t>(slot * expert_.slice_bytes()),
                   NextOnHost(), static_cast<uint64_t>(expert_.slice_bytes()));
  }
  // Zeros would be multiplied at less power, so faster.
  Rng rng(1);
  std::vector<float> x(x_.bytes() / sizeof(float));
  for (float& value : x) value = static_cast<float>(rng.NextUnit() * 2 - 1);
  device_.CopyIn(stream_, x_.address(), x.data(), x_.bytes());
  device_.Clear(stream_, out_.address(), out_.bytes());
  device_.Synchronize(stream_);
}

DeviceMeter::~DeviceMeter() { device_.Unpin(cpu_.bytes()); }

const std::byte* DeviceMeter::NextOnHost() {
  const int64_t all = static_cast<int64_t>(cpu_.experts().size()) * expert_.num_slices();
  return cpu_.bytes().data() + next_slice_++ % all * expert_.slice_bytes();
}

double DeviceMeter::TimeSlices(int64_t slices, int64_t tokens) {
  const FiddlerSlices entry = {.slice = slices_.address(),
                               .num_slices = slices,
                               .tokens = tokens,
                               .rows = nullptr,
                               .weights = nullptr,
                               .weights_on_device = 0};
  return SecondsOf([&] {
    device_.Ffn(stream_, {.hidden = expert_.hidden,
                          .slice_neurons = expert_.slice_neurons,
                          .slice_bytes = expert_.slice_bytes(),
                          .format = static_cast<int32_t>(expert_.format),
                          .rounding = static_cast<int32_t>(cpu_.rounding()),
                          .x = x_.address(),
                          .out = out_.address(),
                          .entries = &entry,
                          .num_entries = 1});
    device_.Synchronize(stream_);
  });
}

void DeviceMeter::MeasureSlices() {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const double one = TimeSlices(1, tokens_[i]);
    const int64_t many =
        std::clamp(static_cast<int64_t>(timed_seconds_ / one), int64_t{2}, std::max<int64_t>(2, slots_));
    if (many > slots_) {  // room for a single one
      seconds_[i].push_back(one);
      if (i == 0) start_.push_back(0);
      continue;
    }
    // A start and a slice, a start and many slices: the difference is that of slices alone.
    const double slice =
        std::max((TimeSlices(many, tokens_[i]) - one) / static_cast<double>(many - 1), one / 100);
    seconds_[i].push_back(slice);
    if (i == 0) start_.push_back(std::max(0.0, one - slice));
  }
}

void DeviceMeter::MeasureLink() {
  for (size_t i = 0; i < copy_bytes_.size(); ++i) {
    const auto bytes = static_cast<uint64_t>(copy_bytes_[i]);
    const std::byte* host = NextOnHost();
    if (host + bytes > cpu_.bytes().data() + cpu_.bytes().size()) host = cpu_.bytes().data();
    in_seconds_[i].push_back(SecondsOf([&] {
      device_.CopyIn(stream_, slices_.address(), host, bytes);
      device_.Synchronize(stream_);
    }));
    PinnedBuffer back(device_, bytes, "copies back");
    out_seconds_[i].push_back(SecondsOf([&] {
      device_.CopyOut(stream_, back.data(), slices_.address(), bytes);
      device_.Synchronize(stream_);
    }));
  }
  const int64_t count = std::clamp(kLargestCopy / expert_.slice_bytes(), int64_t{1}, kFlags);
  const double seconds = SecondsOf([&] {
    for (int64_t i = 0; i < count; ++i) {
      device_.CopyIn(stream_, slices_.address(), NextOnHost(), static_cast<uint64_t>(expert_.slice_bytes()));
    }
    device_.Synchronize(stream_);
  });
  link_slice_.push_back(seconds / static_cast<double>(count));
}

// Copies go on, each setting a flag when it is done, while the CPU computes: how many were done when the CPU
// was.
void DeviceMeter::MeasureJoint() {
  const std::span<uint32_t> flags(flags_.as<uint32_t>(), kFlags);
  // Twice as many copies as should fit into the time, so that they do not run out.
  const int64_t count =
      std::clamp(static_cast<int64_t>(2 * timed_seconds_ / link_slice_.back()), int64_t{4}, kFlags);
  for (int64_t i = 0; i < count; ++i) {
    device_.CopyIn(stream_, slices_.address(), NextOnHost(), static_cast<uint64_t>(expert_.slice_bytes()));
    device_.Post(stream_, &flags[static_cast<size_t>(i)]);
  }
  const CpuMeter::Reading cpu = cpu_.ReadExperts(timed_seconds_);
  const auto done = std::count_if(flags.begin(), flags.begin() + count, IsSet);
  device_.Synchronize(stream_);
  std::fill(flags.begin(), flags.end(), 0u);
  const double bytes = cpu.bytes + static_cast<double>(done * expert_.slice_bytes());
  joint_gbps_.push_back(bytes / cpu.seconds / 1e9);
}

void DeviceMeter::MeasureHandoff() {
  uint32_t* const there = flags_.as<uint32_t>();
  uint32_t* const back = there + 1;
  for (int i = 0; i < kHandoffs; ++i) {
    device_.Await(stream_, there);
    device_.Post(stream_, back);
  }
  for (int i = 0; i < kHandoffs; ++i) {
    handoff_.push_back(SecondsOf([&] {
      device_.SetFlag(there);
      device_.WaitFlag(back, kPatience, "hand-over");
    }));
  }
  device_.Synchronize(stream_);
}

void DeviceMeter::Round() {
  MeasureSlices();
  MeasureLink();
  MeasureJoint();
  MeasureHandoff();
}

DeviceCosts DeviceMeter::Medians() const {
  DeviceCosts costs = {.slice = {},
                       .start_seconds = Median(start_),
                       .link = {},
                       .link_slice_seconds = Median(link_slice_),
                       .joint_gbps = Median(joint_gbps_),
                       .handoff_p50_seconds = Median(handoff_),
                       .handoff_p99_seconds = Quantile(handoff_, 0.99)};
  for (size_t i = 0; i < tokens_.size(); ++i) {
    costs.slice.push_back({static_cast<double>(tokens_[i]), Median(seconds_[i])});
  }
  for (size_t i = 0; i < copy_bytes_.size(); ++i) {
    costs.link.push_back(
        {static_cast<double>(copy_bytes_[i]), Median(in_seconds_[i]), Median(out_seconds_[i])});
  }
  return costs;
}

}  // namespace fiddler
