#include "base/topology.h"

#include <hwloc.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>

#include "base/error.h"

namespace fiddler {
namespace {

struct TopologyCloser {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using HwlocTopology = std::unique_ptr<hwloc_topology, TopologyCloser>;

HwlocTopology LoadHwloc() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw Error("hwloc: cannot start");
  HwlocTopology topology(raw);
  // Only what this process is allowed to use (taskset, cpusets of a container).
  hwloc_topology_set_flags(raw,
                           HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM | HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING);
  if (hwloc_topology_load(raw) != 0) throw Error("hwloc: cannot read the machine's topology");
  return topology;
}

// cgroup v2: "max 100000" or "200000 100000" (microseconds of CPU time in a period).
int CgroupQuota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period) || period <= 0) return 0;  // no file, or "max"
  return std::max(1, static_cast<int>(std::lround(quota / period)));
}

}  // namespace

int Topology::DefaultThreads() const {
  const int count = static_cast<int>(cores.size());
  return quota > 0 ? std::min(count, quota) : count;
}

Topology DiscoverTopology() {
  const HwlocTopology hwloc = LoadHwloc();
  Topology topology;
  topology.numa_nodes = std::max(1, hwloc_get_nbobjs_by_type(hwloc.get(), HWLOC_OBJ_NUMANODE));
  topology.quota = CgroupQuota();
  const int num_cores = hwloc_get_nbobjs_by_type(hwloc.get(), HWLOC_OBJ_CORE);
  for (int i = 0; i < num_cores; ++i) {
    const hwloc_obj_t core = hwloc_get_obj_by_type(hwloc.get(), HWLOC_OBJ_CORE, static_cast<unsigned>(i));
    const int node = core->nodeset ? hwloc_bitmap_first(core->nodeset) : 0;
    topology.cores.push_back({hwloc_bitmap_first(core->cpuset), std::max(0, node)});
  }
  if (topology.cores.empty()) throw Error("hwloc: expected at least one core, got none");
  std::stable_sort(topology.cores.begin(), topology.cores.end(),
                   [](const Core& a, const Core& b) { return a.numa_node < b.numa_node; });
  if (const hwloc_obj_t package = hwloc_get_obj_by_type(hwloc.get(), HWLOC_OBJ_PACKAGE, 0)) {
    const char* model = hwloc_obj_get_info_by_name(package, "CPUModel");
    topology.cpu_model = model ? model : "unknown CPU";
  }
  return topology;
}

}  // namespace fiddler
