// In what order things run on the emulated device, and that a wait too few is found.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <set>

#include "base/error_testing.h"
#include "device/emulated_testing.h"
#include "device/schedule.h"

namespace fiddler {
namespace {

using emulated::Schedule;
using testing::AllNaN;
using testing::Flags;
using testing::kModes;
using testing::Mode;
using testing::Says;
using testing::TestDevice;

constexpr uint64_t kSeeds = 2 * Schedule::kStrategies;  // every strategy in both manners

EmulatorOptions Adversary(uint64_t seed, std::optional<int64_t> drop_wait = std::nullopt) {
  EmulatorOptions options;
  options.adversary_seed = seed;
  options.drop_wait = drop_wait;
  return options;
}

// What an engine does with experts: a copy stream fills two slots in turn, a compute stream adds them up.
// Each waits for the other: a slot must be full before it is read, and read before it is filled again. The
// first use of each slot waits for an event that was never recorded.
constexpr int64_t kCount = 64;
constexpr int kFills = 6;
constexpr int kSlots = 2;
float SumOfFills() { return kFills * (kFills + 1) / 2.0f; }
bool IsNeeded(int64_t wait) { return wait % 2 == 1 || wait >= 2 * kSlots; }

float RunPipeline(TestDevice& device) {
  const FiddlerStream compute = device.stream();
  const FiddlerStream copies = device->CreateStream();
  std::vector<std::vector<float>> sources;
  std::vector<FiddlerAddress> slots;
  std::vector<FiddlerEvent> full;
  std::vector<FiddlerEvent> free;
  for (int s = 0; s < kSlots; ++s) {
    slots.push_back(device.Room(kCount));
    full.push_back(device->CreateEvent());
    free.push_back(device->CreateEvent());
  }
  for (int i = 0; i < kFills; ++i) sources.emplace_back(kCount, static_cast<float>(i + 1));
  const FiddlerAddress sum = device.Put(std::vector<float>(kCount, 0.0f));
  for (int i = 0; i < kFills; ++i) {
    const auto slot = static_cast<size_t>(i % kSlots);
    device->WaitEvent(copies, free[slot]);
    device->CopyIn(copies, slots[slot], sources[static_cast<size_t>(i)].data(), kCount * sizeof(float));
    device->Record(copies, full[slot]);
    device->WaitEvent(compute, full[slot]);
    device->Add(compute, {.count = kCount, .x = slots[slot], .y = sum});
    device->Record(compute, free[slot]);
  }
  const float result = device.Get(sum, kCount).back();
  device->Synchronize(copies);  // before the sources go
  return result;
}

TEST(CommandQueuesTest, EventsOrderStreamsUnderEveryAdversary) {
  for (const Mode mode : kModes) {
    TestDevice in_order(mode);
    EXPECT_EQ(RunPipeline(in_order), SumOfFills());
    EXPECT_EQ(EmulatedWaits(*in_order), 2 * kFills);
    for (uint64_t seed = 0; seed < 2 * kSeeds; ++seed) {
      TestDevice device(mode, Adversary(seed));
      EXPECT_EQ(RunPipeline(device), SumOfFills()) << seed;
    }
  }
}

TEST(CommandQueuesTest, EveryDroppedWaitIsFound) {
  for (int64_t wait = 0; wait < 2 * kFills; ++wait) {
    int found = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      TestDevice device(Mode::kOneThread, Adversary(seed, wait));
      found += RunPipeline(device) != SumOfFills();
    }
    EXPECT_EQ(found > 0, IsNeeded(wait)) << wait;
    EmulatorOptions options;
    options.drop_wait = wait;
    TestDevice in_order(Mode::kOneThread, options);
    EXPECT_EQ(RunPipeline(in_order), SumOfFills()) << wait;
  }
}

TEST(CommandQueuesTest, TheSameSeedDoesTheSame) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<float> sums;
    for (int run = 0; run < 2; ++run) {
      TestDevice device(Mode::kOneThread, Adversary(seed, 7));
      sums.push_back(RunPipeline(device));
    }
    EXPECT_TRUE(sums[0] == sums[1] || (std::isnan(sums[0]) && std::isnan(sums[1]))) << seed;
  }
}

// A program of adds and copies on any streams, each of which waits for those that wrote what it touches and
// those that read what it writes, and for no others.
std::vector<float> RunRandomProgram(TestDevice& device, uint64_t seed) {
  constexpr size_t kArrays = 5;
  constexpr size_t kCommands = 60;
  Rng rng(seed);
  std::vector<FiddlerStream> streams = {device.stream(), device->CreateStream(), device->CreateStream()};
  struct Array {
    FiddlerAddress address;
    std::optional<FiddlerEvent> written;
    std::vector<FiddlerEvent> read;
  };
  std::vector<Array> arrays;
  for (size_t i = 0; i < kArrays; ++i) {
    arrays.push_back({device.Put(std::vector<float>(kCount, static_cast<float>(i))), {}, {}});
  }
  const std::vector<float> source(kCount, 0.5f);
  for (size_t i = 0; i < kCommands; ++i) {
    const FiddlerStream stream = streams[rng.NextBits() % streams.size()];
    const size_t to = rng.NextBits() % kArrays;
    const size_t from = (to + 1 + rng.NextBits() % (kArrays - 1)) % kArrays;
    const bool copies = rng.NextBits() % 3 == 0;
    const FiddlerEvent done = device->CreateEvent();
    if (arrays[to].written) device->WaitEvent(stream, *arrays[to].written);
    for (const FiddlerEvent event : arrays[to].read) device->WaitEvent(stream, event);
    if (copies) {
      device->CopyIn(stream, arrays[to].address, source.data(), kCount * sizeof(float));
    } else {
      if (arrays[from].written) device->WaitEvent(stream, *arrays[from].written);
      device->Add(stream, {.count = kCount, .x = arrays[from].address, .y = arrays[to].address});
      arrays[from].read.push_back(done);
    }
    device->Record(stream, done);
    arrays[to].written = done;
    arrays[to].read.clear();
  }
  for (const FiddlerStream stream : streams) device->Synchronize(stream);
  std::vector<float> results;
  for (const Array& array : arrays) results.push_back(device.Get(array.address, kCount).back());
  return results;
}

TEST(CommandQueuesTest, AnyProgramThatWaitsGivesTheSameInAnyOrder) {
  int different = 0;  // where a wait is missing
  for (uint64_t program = 0; program < 10; ++program) {
    TestDevice in_order;
    const std::vector<float> expected = RunRandomProgram(in_order, program);
    ASSERT_FALSE(testing::AnyNaN(expected));
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      TestDevice device(seed % 3 == 0 ? Mode::kThreaded : Mode::kOneThread, Adversary(seed));
      ASSERT_EQ(RunRandomProgram(device, program), expected) << program << " " << seed;
      TestDevice faulty(Mode::kOneThread, Adversary(seed, static_cast<int64_t>(20 + program)));
      different += RunRandomProgram(faulty, program) != expected;
    }
  }
  EXPECT_GT(different, 10);
}

TEST(CommandQueuesTest, AnEventRecordedAgainLeavesEarlierWaitsAlone) {
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const FiddlerStream first = device->CreateStream();
    const FiddlerStream second = device->CreateStream();
    const FiddlerEvent event = device->CreateEvent();
    const PinnedBuffer flag = Flags(*device, 1);
    device->Record(first, event);
    device->WaitEvent(second, event);
    device->Await(first, flag.as<uint32_t>());
    device->Record(first, event);
    device->Synchronize(second);
    device->WaitEvent(second, event);
    EXPECT_TRUE(Says(ErrorOf([&] { device->Synchronize(second); }), {"stream 2 waits for event 0"}));
    device->SetFlag(flag.as<uint32_t>());
    device->Synchronize(second);
  }
}

TEST(CommandQueuesTest, FlagsGoBothWays) {
  for (const Mode mode : kModes) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      TestDevice device(mode, Adversary(seed));
      const PinnedBuffer flags = Flags(*device, 2);
      uint32_t* const there = flags.as<uint32_t>();
      uint32_t* const back = there + 1;
      const PinnedBuffer value(*device, sizeof(float), "value");
      const FiddlerAddress x = device.Room(1);
      for (float step = 1; step < 5; ++step) {
        device->Await(device.stream(), there);
        device->CopyIn(device.stream(), x, value.data(), sizeof(float));
        device->Add(device.stream(), {.count = 1, .x = x, .y = x});
        device->CopyOut(device.stream(), value.data(), x, sizeof(float));
        device->Post(device.stream(), back);
        *value.as<float>() = step;
        device->SetFlag(there);
        device->WaitFlag(back, 60, "the answer");
        EXPECT_EQ(*value.as<float>(), 2 * step) << seed;
        EXPECT_EQ(*back, 0u);
      }
    }
  }
}

TEST(CommandQueuesTest, WhatCannotHappenIsAnError) {
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const FiddlerStream other = device->CreateStream();
    const PinnedBuffer flags = Flags(*device, 2);
    uint32_t* const flag = flags.as<uint32_t>();
    EXPECT_TRUE(Says(ErrorOf([&] { device->WaitFlag(flag, 60, "layer 3, routing"); }),
                     {"layer 3, routing: wait_flag", "nothing is queued"}));
    device->Await(device.stream(), flag);
    device->Post(device.stream(), flag + 1);
    device->Await(other, flag + 1);
    for (const FiddlerStream stream : {device.stream(), other}) {
      EXPECT_TRUE(Says(ErrorOf([&] { device->Synchronize(stream); }),
                       {"stream 0 waits for the flag", "stream 1 waits for the flag"}));
    }
    EXPECT_TRUE(Says(ErrorOf([&] { device->WaitFlag(flag + 1, 60, "x"); }), {"nothing can go on"}));
    device->SetFlag(flag);
    device->Synchronize(other);

    device->SetFlag(flag);
    EXPECT_TRUE(Says(ErrorOf([&] { device->SetFlag(flag); }), {"is 1, expected 0"}));
    uint32_t not_pinned = 0;
    EXPECT_TRUE(Says(ErrorOf([&] { device->SetFlag(&not_pinned); }), {"does not lie in pinned memory"}));
    device->Post(device.stream(), flag);
    EXPECT_TRUE(Says(ErrorOf([&] { device->Synchronize(device.stream()); }), {"post: the flag at"}));
  }
}

std::atomic<bool> adds_may_end{false};

TEST(CommandQueuesTest, AThreadThatIsTooSlowIsAnError) {
  CpuKernels kernels = BestKernels();
  kernels.add = [](int64_t, const float*, float*) { adds_may_end.wait(false); };
  adds_may_end = false;
  TestDevice device(Mode::kThreaded, {}, kernels);
  const PinnedBuffer flag = Flags(*device, 1);
  const FiddlerAddress x = device.Room(1);
  device->Add(device.stream(), {.count = 1, .x = x, .y = x});
  device->Post(device.stream(), flag.as<uint32_t>());
  EXPECT_TRUE(
      Says(ErrorOf([&] { device->WaitFlag(flag.as<uint32_t>(), 0.001, "x"); }), {"nothing came within"}));
  adds_may_end = true;
  adds_may_end.notify_all();
  device->WaitFlag(flag.as<uint32_t>(), 60, "x");
}

// Once the host has what it waits for, what else could run has run, or not: both are allowed.
TEST(CommandQueuesTest, SeedsSayHowFarTheDeviceGoesOn) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Schedule schedule(seed);
    if (schedule.strategy() != Schedule::Strategy::kOnlyNeeded) continue;
    TestDevice device(Mode::kOneThread, Adversary(seed));
    const FiddlerStream needed = device->CreateStream();
    const FiddlerStream idle = device->CreateStream();
    const FiddlerEvent event = device->CreateEvent();
    const FiddlerAddress x = device.Put(std::vector<float>(kCount, 1.0f));
    std::vector<float> targets[2] = {std::vector<float>(kCount), std::vector<float>(kCount)};
    device->CopyOut(idle, targets[0].data(), x, kCount * sizeof(float));
    for (int i = 0; i < 20; ++i) {  // so many draws would not miss the idle stream
      device->CopyOut(needed, targets[1].data(), x, kCount * sizeof(float));
    }
    device->Record(needed, event);
    device->WaitEvent(device.stream(), event);
    device->Synchronize(device.stream());
    EXPECT_EQ(targets[1].back(), 1.0f);
    EXPECT_EQ(AllNaN(targets[0]), !schedule.eager()) << seed;
    device->Synchronize(idle);
    EXPECT_EQ(targets[0].back(), 1.0f);
  }
}

TEST(CommandQueuesTest, CopiesReadLateAndPoisonEarly) {
  TestDevice device;
  std::vector<float> source(kCount, 1.0f);
  std::vector<float> target(kCount, 2.0f);
  const FiddlerAddress x = device.Put(source);
  device->CopyIn(device.stream(), x, source.data(), kCount * sizeof(float));
  device->CopyOut(device.stream(), target.data(), x, kCount * sizeof(float));
  EXPECT_TRUE(AllNaN(target));
  source.assign(kCount, 3.0f);
  device->Synchronize(device.stream());
  EXPECT_EQ(target, source);
}

// Somebody who reads while a copy is under way sees nothing, even of a copy of what was there before.
TEST(CommandQueuesTest, NothingIsThereWhileACopyIsUnderWay) {
  std::set<bool> seen;
  for (uint64_t seed = 0; seed < 4 * kSeeds; ++seed) {
    TestDevice device(Mode::kOneThread, Adversary(seed));
    const FiddlerStream other = device->CreateStream();
    const std::vector<float> source(kCount, 1.0f);
    const FiddlerAddress x = device.Put(source);
    const FiddlerAddress y = device.Put(std::vector<float>(kCount, 0.0f));
    device->CopyIn(other, x, source.data(), kCount * sizeof(float));
    device->Add(device.stream(), {.count = kCount, .x = x, .y = y});
    seen.insert(AllNaN(device.Get(y, kCount)));
    device->Synchronize(other);
  }
  EXPECT_EQ(seen.size(), 2u);
}

TEST(CommandQueuesTest, SegmentsRunAgainAndAgain) {
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    std::vector<float> step(kCount, 1.0f);
    std::vector<float> result(kCount, 7.0f);
    const FiddlerAddress x = device.Room(kCount);
    const FiddlerAddress sum = device.Put(std::vector<float>(kCount, 0.0f));
    const FiddlerEvent event = device->CreateEvent();
    const auto capture = [&](int adds) {
      device->BeginCapture(device.stream());
      device->CopyIn(device.stream(), x, step.data(), kCount * sizeof(float));
      for (int i = 0; i < adds; ++i) device->Add(device.stream(), {.count = kCount, .x = x, .y = sum});
      device->Record(device.stream(), event);
      device->WaitEvent(device.stream(), event);
      device->CopyOut(device.stream(), result.data(), sum, kCount * sizeof(float));
      return device->EndCapture(device.stream());
    };
    const FiddlerSegment once = capture(1);
    device->Synchronize(device.stream());
    EXPECT_EQ(result.front(), 7.0f) << "ran while it was captured";
    device->Launch(device.stream(), once);
    device->Launch(device.stream(), once);
    device->Synchronize(device.stream());
    EXPECT_EQ(result, std::vector<float>(kCount, 2.0f));
    step.assign(kCount, 10.0f);
    const FiddlerSegment twice = capture(2);
    device->Launch(device.stream(), twice);
    device->ReleaseSegment(twice);
    device->Launch(device.stream(), once);
    device->Synchronize(device.stream());
    EXPECT_EQ(result, std::vector<float>(kCount, 32.0f));
    EXPECT_EQ(EmulatedWaits(*device), 4);
    EXPECT_TRUE(Says(ErrorOf([&] { device->Launch(device.stream(), twice); }), {"no segment"}));

    device->BeginCapture(device.stream());
    device->Post(device.stream(), Flags(*device, 1).as<uint32_t>());
    const FiddlerSegment flagless = device->EndCapture(device.stream());
    EXPECT_TRUE(
        Says(ErrorOf([&] { device->Launch(device.stream(), flagless); }), {"post: a flag", "pinned"}));
  }
}

TEST(CommandQueuesTest, CapturesHaveLimits) {
  TestDevice device;
  const FiddlerStream stream = device.stream();
  EXPECT_TRUE(Says(ErrorOf([&] { device->EndCapture(stream); }), {"not being captured"}));
  device->BeginCapture(stream);
  EXPECT_TRUE(Says(ErrorOf([&] { device->BeginCapture(stream); }), {"captured already"}));
  EXPECT_TRUE(Says(ErrorOf([&] { device->Synchronize(stream); }), {"being captured"}));
  EXPECT_TRUE(Says(ErrorOf([&] { device->Launch(stream, 0); }), {"being captured"}));
  const FiddlerSegment empty = device->EndCapture(stream);
  device->Launch(stream, empty);
  device->Synchronize(stream);
}

TEST(CommandQueuesTest, AFailedDeviceStaysFailed) {
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const FiddlerAddress x = device.Room(kCount);
    device->Add(device.stream(), {.count = kCount + 1, .x = x, .y = x});
    const std::string error = ErrorOf([&] { device->Synchronize(device.stream()); });
    EXPECT_TRUE(Says(error, {"emulated GPU: stream 0: add: x: 260 bytes at"}));
    EXPECT_EQ(ErrorOf([&] { device->CreateStream(); }), error);
    EXPECT_EQ(ErrorOf([&] { device->SetFlag(nullptr); }), error);
    EXPECT_EQ(ErrorOf([&] { device->Synchronize(device.stream()); }), error);
    EXPECT_EQ(device->memory().used_bytes, kCount * sizeof(float));
  }
}

TEST(CommandQueuesTest, ADeviceMayCloseWithWorkThatNeverCan) {
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const PinnedBuffer flag = Flags(*device, 1);
    device->Await(device.stream(), flag.as<uint32_t>());
  }
}

}  // namespace
}  // namespace fiddler
