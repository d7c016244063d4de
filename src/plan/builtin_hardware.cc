// Machines as their makers specify them, times the share of it that programs reach. Every figure is base
// arithmetic on a public specification, so it can be checked; none was measured by us. Use calibrate/ for
// real ones.
#include <array>

#include "base/error.h"
#include "plan/hardware.h"

namespace fiddler {
namespace {

// Shares of the peak. Memory of a host: STREAM-like reads of 75-85% are usual, and a desktop of 89.6 GB/s was
// measured at 72 alone and 78 with the link busy. GDDR and HBM: 85-92% in vendors' own bandwidth tests.
// Arithmetic on the CPU: BF16 products with a slice in cache reach 86% of what is left once clocks drop
// (oneDNN, M = 64). Arithmetic on the GPU: grouped products of a few hundred tokens a matrix, far from
// cuBLAS's best case.
constexpr double kDramShare = 0.8;
constexpr double kGpuMemoryShare = 0.88;
constexpr double kCpuArithmeticShare = 0.7;
constexpr double kGpuArithmeticShare = 0.5;

// Host to device, pinned. PCI Express 3.0, 4.0, 5.0 x16 carry 15.75, 31.5 and 63 GB/s; what remains after
// packet headers and flow control is some 12.3, 25 and 53.
constexpr double kPcie3Gbps = 12.3;
constexpr double kPcie4Gbps = 25;
constexpr double kPcie5Gbps = 53;

// Flags in mapped memory take 2-4 us each way (PCI Express round trips), a barrier of the CPU threads 1-2; a
// kernel of a captured graph starts within 2-3 us of the last, and a layer's experts are two or three.
constexpr double kHandoffSeconds = 10e-6;
constexpr double kBarrierSeconds = 3e-6;  // no GPU to hand over from
constexpr double kLaunchSeconds = 8e-6;

constexpr uint64_t kGiB = uint64_t{1} << 30;

// Operations a cycle and core: 512-bit float32 FMA twice a cycle 64 (Intel Xeon Scalable with two units);
// VDPBF16PS 64 on Zen 4 and Sapphire Rapids (one a cycle), 128 on Zen 5 (two).
constexpr double Gflops(double cores, double gigahertz, double operations_per_cycle) {
  return cores * gigahertz * operations_per_cycle * kCpuArithmeticShare;
}

// Channels of 8 bytes.
constexpr double DramGbps(double channels, double megatransfers) {
  return channels * megatransfers * 8e-3 * kDramShare;
}

std::array<HardwareProfile, 6> MakeProfiles() {
  return {{
      {
          .name = "rtx4090-ddr5",
          // Ryzen 9 7950X (AMD: 16 cores, 4.5 GHz, dual channel); DDR5-5600, the memory such builds have.
          // A desktop's cores fill its two channels alone: the link adds less than a tenth.
          .cpu_read_gbps = DramGbps(2, 5600),
          .dram_gbps = 1.08 * DramGbps(2, 5600),
          .cpu_gflops = Gflops(16, 4.5, 64),
          .ram_bytes = 128 * kGiB,
          .handoff_seconds = kHandoffSeconds,
          // NVIDIA Ada GPU architecture whitepaper, RTX 4090: 24 GB, 1008 GB/s, BF16 with float32 sums 165.2
          // TFLOPS (dense), PCI Express 4.0.
          .gpu_memory_bytes = 24 * kGiB,
          .gpu_memory_gbps = 1008 * kGpuMemoryShare,
          .gpu_gflops = 165'200 * kGpuArithmeticShare,
          .link_gbps = kPcie4Gbps,
          .launch_seconds = kLaunchSeconds,
      },
      {
          .name = "rtx5090-9950x",
          // Ryzen 9 9950X (AMD: 16 cores, 4.3 GHz, dual channel DDR5-5600).
          .cpu_read_gbps = DramGbps(2, 5600),
          .dram_gbps = 1.08 * DramGbps(2, 5600),
          .cpu_gflops = Gflops(16, 4.3, 128),
          .ram_bytes = 128 * kGiB,
          .handoff_seconds = kHandoffSeconds,
          // NVIDIA RTX Blackwell GPU architecture whitepaper, RTX 5090: 32 GB, 1792 GB/s, BF16 with float32
          // sums 209.5 TFLOPS (dense), PCI Express 5.0.
          .gpu_memory_bytes = 32 * kGiB,
          .gpu_memory_gbps = 1792 * kGpuMemoryShare,
          .gpu_gflops = 209'500 * kGpuArithmeticShare,
          .link_gbps = kPcie5Gbps,
          .launch_seconds = kLaunchSeconds,
      },
      {
          .name = "l4-8ch",
          // Xeon Platinum 8358 (Intel ARK: 32 cores, 2.6 GHz, 8 channels of DDR4-3200, no BF16).
          .cpu_read_gbps = DramGbps(8, 3200),
          .dram_gbps = 1.08 * DramGbps(8, 3200),
          .cpu_gflops = Gflops(32, 2.6, 64),
          .ram_bytes = 256 * kGiB,
          .handoff_seconds = kHandoffSeconds,
          // NVIDIA L4 data sheet: 24 GB, 300 GB/s, BF16 242 TFLOPS with sparsity, half of it dense; PCI
          // Express 4.0. 72 W hold it well below that rate in long runs, which kGpuArithmeticShare covers.
          .gpu_memory_bytes = 24 * kGiB,
          .gpu_memory_gbps = 300 * kGpuMemoryShare,
          .gpu_gflops = 121'000 * kGpuArithmeticShare,
          .link_gbps = kPcie4Gbps,
          .launch_seconds = kLaunchSeconds,
      },
      {
          .name = "h100-16vcpu",
          // A cloud slice of a Xeon Platinum 8481C (Google Cloud: Sapphire Rapids, 3.0 GHz all cores): 16
          // virtual CPUs are 8 cores, which read some 100 GB/s of the socket's 8 channels of DDR5-4800.
          .cpu_read_gbps = 100,
          .dram_gbps = DramGbps(8, 4800),
          .cpu_gflops = Gflops(8, 3.0, 64),
          .ram_bytes = 128 * kGiB,
          .handoff_seconds = kHandoffSeconds,
          // NVIDIA H100 data sheet, SXM: 80 GB, 3350 GB/s, BF16 1979 TFLOPS with sparsity, half of it dense;
          // PCI Express 5.0.
          .gpu_memory_bytes = 80 * kGiB,
          .gpu_memory_gbps = 3350 * kGpuMemoryShare,
          .gpu_gflops = 989'500 * kGpuArithmeticShare,
          .link_gbps = kPcie5Gbps,
          .launch_seconds = kLaunchSeconds,
      },
      {
          .name = "rtx6000-xeon6126",
          // Xeon Gold 6126 (Intel ARK: 12 cores, 6 channels of DDR4-2666; specification update: 1.7 GHz base
          // with AVX-512). The first machine of the Fiddler paper (arXiv 2402.07033), one socket of it.
          .cpu_read_gbps = DramGbps(6, 2666),
          .dram_gbps = 1.08 * DramGbps(6, 2666),
          .cpu_gflops = Gflops(12, 1.7, 64),
          .ram_bytes = 192 * kGiB,
          .handoff_seconds = kHandoffSeconds,
          // NVIDIA Turing GPU architecture whitepaper, Quadro RTX 6000: 24 GB, 672 GB/s, FP16 with float32
          // sums 130.5 TFLOPS (no BF16), PCI Express 3.0.
          .gpu_memory_bytes = 24 * kGiB,
          .gpu_memory_gbps = 672 * kGpuMemoryShare,
          .gpu_gflops = 130'500 * kGpuArithmeticShare,
          .link_gbps = kPcie3Gbps,
          .launch_seconds = kLaunchSeconds,
      },
      {
          .name = "cpu-only",
          // The desktop of rtx4090-ddr5 without its GPU.
          .cpu_read_gbps = DramGbps(2, 5600),
          .dram_gbps = DramGbps(2, 5600),
          .cpu_gflops = Gflops(16, 4.5, 64),
          .ram_bytes = 128 * kGiB,
          .handoff_seconds = kBarrierSeconds,
      },
  }};
}

}  // namespace

std::span<const HardwareProfile> BuiltinHardware() {
  static const std::array<HardwareProfile, 6> profiles = MakeProfiles();
  return profiles;
}

const HardwareProfile& FindHardware(std::string_view name) {
  std::string names;
  for (const HardwareProfile& hardware : BuiltinHardware()) {
    if (hardware.name == name) return hardware;
    names += (names.empty() ? "" : ", ") + hardware.name;
  }
  throw Error("hardware: expected one of {}, got '{}'", names, name);
}

}  // namespace fiddler
