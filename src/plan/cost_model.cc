#include "plan/cost_model.h"

#include "base/check.h"
#include "base/field_reader.h"
#include "base/json.h"

namespace fiddler {
namespace {

constexpr double kGiga = 1e9;

CostTable Roofline(const SliceShape& slice, double gbps, double gflops, std::string_view what) {
  CHECK(gbps > 0 && gflops > 0, "{}: {} GB/s, {} GFLOP/s", what, gbps, gflops);
  const double read = slice.bytes / (gbps * kGiga);
  const double compute = slice.flops_per_token / (gflops * kGiga);  // a token
  const double knee = read / compute;
  if (knee <= 1) return {{{1, compute}, {2, 2 * compute}}, what};
  return {{{1, read}, {knee, read}, {2 * knee, 2 * read}}, what};
}

}  // namespace

CostModel MakeCostModel(const HardwareProfile& hardware, const SliceShape& slice) {
  CHECK(slice.bytes > 0 && slice.flops_per_token > 0, "{} bytes, {} operations", slice.bytes,
        slice.flops_per_token);
  CHECK(hardware.dram_gbps > 0, "{} GB/s", hardware.dram_gbps);
  CostModel cost;
  cost.cpu = Roofline(slice, hardware.cpu_read_gbps, hardware.cpu_gflops, "cpu");
  cost.cpu_start = hardware.handoff_seconds;
  cost.dram_slice_seconds = slice.bytes / (hardware.dram_gbps * kGiga);
  cost.has_gpu = hardware.has_gpu();
  if (!cost.has_gpu) return cost;
  CHECK(hardware.link_gbps > 0, "{} GB/s", hardware.link_gbps);
  cost.gpu = Roofline(slice, hardware.gpu_memory_gbps, hardware.gpu_gflops, "gpu");
  cost.gpu_start = hardware.launch_seconds;
  cost.link_slice_seconds = slice.bytes / (hardware.link_gbps * kGiga);
  return cost;
}

CostModel CostModelFromJson(const Json& json, std::string_view source) {
  FieldReader fields(json, source);
  CostModel cost;
  cost.cpu = CostTable::FromJson(fields.Value("cpu"), fields.Where("cpu"));
  cost.cpu_start = fields.Number("cpu_start");
  cost.dram_slice_seconds = fields.Number("dram_slice_seconds");
  cost.has_gpu = fields.Has("gpu");
  if (cost.has_gpu) {
    cost.gpu = CostTable::FromJson(fields.Value("gpu"), fields.Where("gpu"));
    cost.gpu_start = fields.Number("gpu_start");
    cost.link_slice_seconds = fields.Number("link_slice_seconds");
  }
  fields.RefuseUnread();
  return cost;
}

Json ToJson(const CostModel& cost) {
  Json json = {
      {"cpu", cost.cpu.ToJson()},
      {"cpu_start", cost.cpu_start},
      {"dram_slice_seconds", cost.dram_slice_seconds},
  };
  if (cost.has_gpu) {
    json["gpu"] = cost.gpu.ToJson();
    json["gpu_start"] = cost.gpu_start;
    json["link_slice_seconds"] = cost.link_slice_seconds;
  }
  return json;
}

}  // namespace fiddler
