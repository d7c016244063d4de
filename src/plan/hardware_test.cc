#include "plan/hardware.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/json.h"
#include "plan/cost_model.h"
#include "plan/layer_plan.h"
#include "plan/planning_testing.h"

namespace fiddler {
namespace {

std::string ReadError(const Json& json) {
  return ErrorOf([&] { HardwareFromJson(json, "my.json"); });
}

TEST(HardwareTest, BuiltinOnesAreFoundByName) {
  for (const char* name :
       {"rtx4090-ddr5", "rtx5090-9950x", "l4-8ch", "h100-16vcpu", "rtx6000-xeon6126", "cpu-only"}) {
    EXPECT_EQ(FindHardware(name).name, name);
  }
  EXPECT_EQ(BuiltinHardware().size(), 6);
  EXPECT_FALSE(FindHardware("cpu-only").has_gpu());
  EXPECT_EQ(ErrorOf([] { FindHardware("abacus"); }),
            "hardware: expected one of rtx4090-ddr5, rtx5090-9950x, l4-8ch, h100-16vcpu, rtx6000-xeon6126, "
            "cpu-only, got 'abacus'");
}

TEST(HardwareTest, JsonAndBack) {
  for (const HardwareProfile& hardware : BuiltinHardware()) {
    EXPECT_EQ(HardwareFromJson(ParseJson(ToJson(hardware).dump(), "f"), "f"), hardware);
  }
}

TEST(HardwareTest, FileAndBack) {
  const std::filesystem::path path = testing::TempDir() + "fiddler_hardware_test.json";
  WriteHardware(FindHardware("l4-8ch"), path);
  EXPECT_EQ(ReadHardware(path), FindHardware("l4-8ch"));
  std::ofstream(path) << "{";
  EXPECT_EQ(ErrorOf([&] { ReadHardware(path); }),
            path.string() + ": expected JSON, got a syntax error at byte 2");
  std::filesystem::remove(path);
  EXPECT_EQ(ErrorOf([&] { ReadHardware(path); }),
            path.string() + ": expected a file, got: No such file or directory");
  EXPECT_EQ(ErrorOf([&] { WriteHardware(FindHardware("l4-8ch"), "/nowhere/at/all"); }),
            "/nowhere/at/all: expected to write a file, got: No such file or directory");
}

TEST(HardwareTest, ErrorsNameTheField) {
  const Json good = ToJson(FindHardware("rtx4090-ddr5"));
  const auto with = [&](const char* field, const Json& value) {
    Json json = good;
    json[field] = value;
    return ReadError(json);
  };
  EXPECT_NO_THROW(HardwareFromJson(good, "my.json"));
  EXPECT_EQ(ReadError(Json(3)), "my.json: expected a JSON object, got 3");
  EXPECT_EQ(with("gpu_tflops", 3), "my.json: expected no field but the known ones, got \"gpu_tflops\": 3");
  EXPECT_EQ(with("name", 3), "my.json: name: expected a string, got 3");
  EXPECT_EQ(with("cpu_gflops", "fast"),
            "my.json: cpu_gflops: expected a finite number above 0, got \"fast\"");
  EXPECT_EQ(with("link_gbps", -1), "my.json: link_gbps: expected a finite number above 0, got -1");
  EXPECT_EQ(with("link_gbps", 0), "my.json: link_gbps: expected a finite number above 0, got 0");
  EXPECT_EQ(with("handoff_seconds", -1e-6),
            "my.json: handoff_seconds: expected a finite number of at least 0, got -1e-06");
  EXPECT_EQ(with("dram_gbps", 1), "my.json: dram_gbps: expected at least cpu_read_gbps, 71.68, got 1");
  EXPECT_EQ(
      with("ram_bytes", -1),
      "my.json: ram_bytes: expected bytes: an integer of at least 0, or a size such as \"24GiB\", got -1");
  EXPECT_EQ(
      with("ram_bytes", 1.5),
      "my.json: ram_bytes: expected bytes: an integer of at least 0, or a size such as \"24GiB\", got 1.5");
  EXPECT_EQ(with("ram_bytes", "much"),
            "my.json: ram_bytes: expected a size such as 24GiB, 512MiB or 4096, got 'much'");
  EXPECT_EQ(with("gpu_memory_bytes", 0),
            "my.json: gpu_memory_bytes: expected more than 0 (no GPU: leave its fields out), got 0");

  Json missing = good;
  missing.erase("link_gbps");
  EXPECT_EQ(ReadError(missing), "my.json: link_gbps: expected a value, got nothing: the field is missing");
  Json half = good;  // what only a GPU has
  half.erase("gpu_memory_bytes");
  EXPECT_EQ(ReadError(half).substr(0, 49), "my.json: expected no field but the known ones, go");
}

TEST(HardwareTest, SizesAsPeopleWriteThem) {
  Json json = ToJson(FindHardware("rtx4090-ddr5"));
  json["ram_bytes"] = "64GiB";
  EXPECT_EQ(HardwareFromJson(json, "f").ram_bytes, uint64_t{64} << 30);
}

HardwareProfile RoundNumbers() {
  return {.name = "round numbers",
          .cpu_read_gbps = 50,
          .dram_gbps = 100,
          .cpu_gflops = 500,
          .handoff_seconds = 1e-5,
          .gpu_memory_bytes = 1,
          .gpu_memory_gbps = 1000,
          .gpu_gflops = 100'000,
          .link_gbps = 25,
          .launch_seconds = 2e-5};
}

TEST(CostModelTest, IsTheRooflineOfEitherSide) {
  const SliceShape slice = {.bytes = 1e6, .flops_per_token = 1e6};
  const CostModel cost = MakeCostModel(RoundNumbers(), slice);
  for (const double tokens : {1., 2., 9., 10., 11., 99., 100., 101., 1000., 100'000.}) {
    EXPECT_DOUBLE_EQ(cost.cpu.Seconds(tokens), std::max(1e6 / 50e9, tokens * 1e6 / 500e9));
    EXPECT_DOUBLE_EQ(cost.gpu.Seconds(tokens), std::max(1e6 / 1000e9, tokens * 1e6 / 100e12));
  }
  EXPECT_DOUBLE_EQ(cost.link_slice_seconds, 4e-5);
  EXPECT_DOUBLE_EQ(cost.dram_slice_seconds, 1e-5);
  EXPECT_EQ(cost.cpu_start, 1e-5);
  EXPECT_EQ(cost.gpu_start, 2e-5);
  EXPECT_TRUE(cost.has_gpu);
}

TEST(CostModelTest, ArithmeticCanDecideFromTheFirstToken) {
  const CostModel cost = MakeCostModel(RoundNumbers(), {.bytes = 1e6, .flops_per_token = 1e8});
  for (const double tokens : {1., 2., 1000.})
    EXPECT_DOUBLE_EQ(cost.cpu.Seconds(tokens), tokens * 1e8 / 500e9);
}

TEST(CostModelTest, JsonAndBack) {
  for (const HardwareProfile& hardware : BuiltinHardware()) {
    const CostModel cost = MakeCostModel(hardware, {.bytes = 2.4e6, .flops_per_token = 2.4e6});
    EXPECT_EQ(CostModelFromJson(ParseJson(ToJson(cost).dump(), "f"), "f"), cost);
  }
  Json json = ToJson(CostModel());
  json["cpu"][0][1] = -1;
  EXPECT_EQ(ErrorOf([&] { CostModelFromJson(json, "f"); }),
            "f: cpu[0].seconds: expected a finite number of at least 0, got -1");
  json = ToJson(CostModel());
  json["link_slice_seconds"] = 1;  // without a GPU
  EXPECT_EQ(ErrorOf([&] { CostModelFromJson(json, "f"); }),
            "f: expected no field but the known ones, got \"link_slice_seconds\": 1");
}

// arXiv 2402.07033, section 3: above n* tokens an expert, about cpu_gflops * bytes / (flops * link), a fetch
// beats the CPU; few tokens belong to the CPU as soon as its memory is faster than the link.
TEST(CostModelTest, APlanOnAKnownMachineDoesWhatThePaperDoes) {
  LayerPlanner planner(8);
  const CostModel cost =
      MakeCostModel(FindHardware("rtx6000-xeon6126"), {.bytes = 22e6, .flops_per_token = 22e6});
  const std::vector<ExpertLoad> prefill = {{.tokens = 2000, .missing = 16}, {.tokens = 1, .missing = 16}};
  const LayerPlan plan = planner.Plan(prefill, cost);
  EXPECT_GE(plan.shares[0].fetch, 15);
  EXPECT_LE(plan.shares[1].fetch, 1);
}

}  // namespace
}  // namespace fiddler
