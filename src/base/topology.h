// What this process may run on: its cores and their NUMA nodes (hwloc), within its CPU affinity and cgroup
// quota.
#pragma once

#include <string>
#include <vector>

namespace fiddler {

struct Core {
  int cpu;        // operating-system number of its first hardware thread
  int numa_node;  // 0 where the machine has one node
};

struct Topology {
  std::string cpu_model;    // "AMD EPYC 9354"
  std::vector<Core> cores;  // physical cores this process may use, ordered by NUMA node; never empty
  int numa_nodes = 1;
  int quota = 0;  // whole cores' worth of time the cgroup grants (at least 1), 0 without a limit

  // One thread a physical core, within the quota.
  int DefaultThreads() const;
};

// Throws Error if the machine cannot be read.
Topology DiscoverTopology();

}  // namespace fiddler
