#include "calibrate/calibration.h"

#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "base/error_testing.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/sealed_json.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

Calibration Sample() {
  return {.hardware = {.cpu = "EPYC",
                       .threads = 2,
                       .isa = "avx2",
                       .kernels = 1,
                       .ram_gib = 24,
                       .device = "",
                       .device_memory_gib = 0},
          .geometry = {.hidden = 64,
                       .slice_neurons = 128,
                       .format = WeightFormat::kInt4,
                       .rounding = Rounding::kInt8Group32},
          .read_gbps = 40.5,
          .peak_gops = 812.25,
          .cost = {.cpu = CostTable({{1, 1e-5}, {16, 1.1e-5}, {512, 3e-4}}, "cpu"),
                   .cpu_start = 4e-6,
                   .dram_slice_seconds = 9e-6,
                   .has_gpu = false,
                   .gpu = {},
                   .gpu_start = 0,
                   .link_slice_seconds = 0}};
}

Calibration WithDevice() {
  Calibration calibration = Sample();
  calibration.hardware.device = "emulated";
  calibration.hardware.device_memory_gib = 8;
  calibration.cost.has_gpu = true;
  calibration.cost.gpu = CostTable({{1, 1e-6}, {64, 2e-6}}, "gpu");
  calibration.cost.gpu_start = 8e-6;
  calibration.cost.link_slice_seconds = 1e-4;
  return calibration;
}

// Sealed anew after `change` was made to the entries.
template <typename Change>
std::string With(const Change& change) {
  const Calibration both[] = {Sample(), WithDevice()};
  Json json = ParseJson(SerializeCalibrations(both), "f");
  for (const char* seal : {"kind", "version", "checksum"}) json.erase(seal);
  change(json);
  return SealJson({.name = "fiddler calibration", .version = 2}, json);
}

std::string Complaint(const std::string& text) {
  return ErrorOf([&] { ParseCalibrations(text, "f"); });
}

// A folder of its own for each test.
fs::path TestFile() {
  const fs::path folder =
      fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
  fs::remove_all(folder);
  return folder / "deeper" / "calibration.json";
}

void Damage(const fs::path& path, std::string_view text) { std::ofstream(path) << text; }

TEST(CalibrationTest, FileAndBack) {
  std::vector<Calibration> all;
  for (const WeightFormat format : kWeightFormats) {
    for (const Rounding rounding : {Rounding::kNone, FastRounding(format)}) {
      for (Calibration calibration : {Sample(), WithDevice()}) {
        calibration.geometry.format = format;
        calibration.geometry.rounding = rounding;
        if (std::ranges::find(all, calibration) == all.end()) all.push_back(calibration);
      }
    }
  }
  EXPECT_EQ(ParseCalibrations(SerializeCalibrations(all), "f"), all);
  EXPECT_TRUE(ParseCalibrations(SerializeCalibrations({}), "f").empty());
}

TEST(CalibrationTest, ErrorsNameTheField) {
  const auto set = [](const char* part, const char* field, Json value) {
    return Complaint(With([&](Json& json) { json["entries"][0][part][field] = value; }));
  };
  EXPECT_EQ(set("hardware", "threads", 0),
            "f: entries[0]: hardware: threads: expected an integer from 1 to 2147483648, got 0");
  EXPECT_EQ(set("hardware", "cpu", 3), "f: entries[0]: hardware: cpu: expected a string, got 3");
  EXPECT_EQ(set("geometry", "format", "int2"),
            "f: entries[0]: geometry: format: expected f32, f16, bf16, int8 or int4, got \"int2\"");
  EXPECT_EQ(set("geometry", "activations", "bf16"),
            "f: entries[0]: geometry: activations: expected f32 or int8, got \"bf16\"");
  EXPECT_EQ(set("geometry", "more", 1),
            "f: entries[0]: geometry: expected no field but the known ones, got \"more\": 1");
  EXPECT_EQ(set("cost", "cpu", 7), "f: entries[0]: cost: cpu: expected an array of [tokens, seconds], got 7");
  EXPECT_EQ(set("hardware", "device", "x"),
            "f: entries[0]: cost: expected the costs of the device, got none");
  EXPECT_EQ(Complaint(With([](Json& json) { json["entries"][1]["hardware"]["device"] = ""; })),
            "f: entries[1]: cost: expected no costs of a device, as hardware has none, got some");
  EXPECT_EQ(Complaint(With([](Json& json) { json["entries"][1]["read_gbps"] = 0; })),
            "f: entries[1]: read_gbps: expected a finite number above 0, got 0");
  EXPECT_EQ(Complaint(With([](Json& json) { json["entries"][1] = json["entries"][0]; })),
            "f: entries[1]: expected every machine and geometry once, got this one twice");
  EXPECT_EQ(Complaint(With([](Json& json) { json["entries"] = 1; })), "f: entries: expected an array, got 1");
  for (const char* part : {"hardware", "geometry", "cost"}) {
    const Json fields = ParseJson(With([](Json&) {}), "f")["entries"][1][part];
    for (const auto& [field, value] : fields.items()) {
      if (field == "gpu") continue;  // without it there is no device
      const std::string complaint =
          Complaint(With([&, name = field](Json& json) { json["entries"][1][part].erase(name); }));
      EXPECT_EQ(complaint,
                fmt::format("f: entries[1]: {}: {}: expected a value, got nothing: the field is missing",
                            part, field));
    }
  }
}

TEST(CalibrationStoreTest, FindsWhatWasStored) {
  const fs::path path = TestFile();
  EXPECT_EQ(FindCalibration(Sample().hardware, Sample().geometry, path), std::nullopt);  // no file
  EXPECT_EQ(StoreCalibrations(std::vector{Sample()}, path), "");
  EXPECT_EQ(StoreCalibrations(std::vector{WithDevice()}, path), "");
  EXPECT_EQ(FindCalibration(Sample().hardware, Sample().geometry, path), Sample().cost);
  EXPECT_EQ(FindCalibration(WithDevice().hardware, WithDevice().geometry, path), WithDevice().cost);

  Calibration again = Sample();
  again.cost.cpu_start = 5e-6;
  EXPECT_EQ(StoreCalibrations(std::vector{again}, path), "");
  EXPECT_EQ(FindCalibration(again.hardware, again.geometry, path), again.cost);
  EXPECT_EQ(ParseCalibrations(ReadFile(path, 1 << 20), "f").size(), 2u);
}

TEST(CalibrationStoreTest, AnotherMachineOrGeometryIsNotFound) {
  const fs::path path = TestFile();
  StoreCalibrations(std::vector{WithDevice()}, path);
  const auto is_found = [&](auto change) {
    Calibration other = WithDevice();
    change(other.hardware, other.geometry);
    return FindCalibration(other.hardware, other.geometry, path).has_value();
  };
  using H = HardwareKey;
  using G = SliceGeometry;
  EXPECT_TRUE(is_found([](H&, G&) {}));
  EXPECT_FALSE(is_found([](H& h, G&) { h.cpu = "Xeon"; }));
  EXPECT_FALSE(is_found([](H& h, G&) { h.threads = 3; }));
  EXPECT_FALSE(is_found([](H& h, G&) { h.isa = "avx512"; }));
  EXPECT_FALSE(is_found([](H& h, G&) { h.kernels = 2; }));
  EXPECT_FALSE(is_found([](H& h, G&) { h.ram_gib = 23; }));
  EXPECT_FALSE(is_found([](H& h, G&) { h.device = ""; }));
  EXPECT_FALSE(is_found([](H& h, G&) { h.device_memory_gib = 9; }));
  EXPECT_FALSE(is_found([](H&, G& g) { g.hidden = 65; }));
  EXPECT_FALSE(is_found([](H&, G& g) { g.slice_neurons = 64; }));
  EXPECT_FALSE(is_found([](H&, G& g) { g.format = WeightFormat::kInt8; }));
  EXPECT_FALSE(is_found([](H&, G& g) { g.rounding = Rounding::kNone; }));
}

TEST(CalibrationStoreTest, ADamagedFileIsNamedAndStartedOver) {
  const fs::path path = TestFile();
  StoreCalibrations(std::vector{Sample()}, path);
  const std::string whole = ReadFile(path, 1 << 20);
  std::string edited = whole;
  edited.replace(edited.find("40.5"), 4, "41.5");
  for (const std::string& damaged :
       {std::string(), whole.substr(0, whole.size() / 2), edited, std::string("{}")}) {
    Damage(path, damaged);
    const std::string complaint =
        ErrorOf([&] { FindCalibration(Sample().hardware, Sample().geometry, path); });
    EXPECT_TRUE(complaint.starts_with(path.string() + ": ")) << complaint;
    EXPECT_EQ(StoreCalibrations(std::vector{WithDevice()}, path), complaint);
    EXPECT_EQ(ParseCalibrations(ReadFile(path, 1 << 20), "f"), std::vector{WithDevice()});
  }
}

TEST(CalibrationStoreTest, WritersAtOnceLoseNothing) {
  const fs::path path = TestFile();
  constexpr int kWriters = 4;
  constexpr int kEntries = 10;
  const auto entry = [](int writer, int number) {
    Calibration calibration = Sample();
    calibration.hardware.threads = 1 + writer;
    calibration.geometry.hidden = 1 + number;
    return calibration;
  };
  {
    std::vector<std::jthread> writers;
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&, w] {
        for (int i = 0; i < kEntries; ++i) StoreCalibrations(std::vector{entry(w, i)}, path);
      });
    }
  }
  for (int w = 0; w < kWriters; ++w) {
    for (int i = 0; i < kEntries; ++i) {
      EXPECT_TRUE(FindCalibration(entry(w, i).hardware, entry(w, i).geometry, path)) << w << ", " << i;
    }
  }
}

TEST(CalibrationStoreTest, WhatCannotBeWrittenIsNamed) {
  const auto store = [](const char* path) {
    return ErrorOf([&] { StoreCalibrations(std::vector{Sample()}, path); });
  };
  EXPECT_NE(store("/proc/nowhere/x.json").find("/proc/nowhere"), std::string::npos);
  EXPECT_NE(store("/dev/null/x.json").find("/dev/null"), std::string::npos);
}

TEST(CalibrationTest, HardwareNamesTheKernelsThatAreBuiltIn) {
  EXPECT_EQ(DescribeHardware(DiscoverTopology(), 2, "avx2").kernels, kKernelVersion);
}

}  // namespace
}  // namespace fiddler
