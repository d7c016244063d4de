#include "kernels/probe.h"

#include <ctime>

namespace fiddler {

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double MeasureReadRate(const CpuKernels& kernels, std::span<const float> data) {
  const double begin = ThreadSeconds();
  volatile float sum = kernels.read_probe(static_cast<int64_t>(data.size()), data.data());
  static_cast<void>(sum);
  return static_cast<double>(data.size_bytes()) / (ThreadSeconds() - begin);
}

double MeasureRate(double (*probe)(int64_t rounds), int64_t rounds) {
  const double begin = ThreadSeconds();
  const double operations = probe(rounds);
  return operations / (ThreadSeconds() - begin);
}

}  // namespace fiddler
