// What the kernels of a device reach of what it can do, measured in the same run: reading its memory,
// multiplying on its tensor cores, the link in both directions, alone and while the CPU reads memory too, and
// how long handing over between CPU and device takes. Shapes are those of a model, of which nothing is
// loaded.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "cli/output.h"
#include "device/device.h"
#include "kernels/ops.h"
#include "model/spec.h"

namespace fiddler {

// {"limits": {"read_gbps", "mma_sync_bf16_tflops", "link_in_gbps", "link_out_gbps",
// "link_in_gbps_beside_cpu", "handover_us": {"p50", "p99"}}, "kernels": [{"name", "tokens", "us", "gbps",
// "tflops", "limit", "percent_of_limit"}]}, with up to most_tokens tokens. Takes at most half of the device's
// memory. Throws Error.
OrderedJson BenchKernels(const ModelSpec& spec, WeightFormat format, int64_t most_tokens, Device& device,
                         const CpuKernels& kernels, ThreadPool& pool);
void PrintKernels(const OrderedJson& result);

}  // namespace fiddler
