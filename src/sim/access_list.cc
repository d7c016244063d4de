#include "sim/access_list.h"

namespace fiddler {

AccessList LayerAccesses(const RoutingTrace& trace, int64_t layer) {
  AccessList list;
  list.first_of_step.push_back(0);
  constexpr size_t kNone = ~size_t{0};
  std::vector<size_t> place(static_cast<size_t>(trace.geometry().num_experts), kNone);  // in list.accesses
  for (int64_t step = 0; step < trace.num_steps(); ++step) {
    for (const uint16_t expert : trace.Experts(step, layer)) {
      if (place[expert] == kNone) {
        place[expert] = list.accesses.size();
        list.accesses.push_back({.expert = expert, .tokens = 0});
      }
      ++list.accesses[place[expert]].tokens;
    }
    list.first_of_step.push_back(list.accesses.size());
    for (const AccessList::Access& access : list.Step(step))
      place[static_cast<size_t>(access.expert)] = kNone;
  }
  return list;
}

}  // namespace fiddler
