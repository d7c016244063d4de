// Attention of the oracle.
#pragma once

#include "kernels/ops.h"

namespace fiddler::generic {

void KvWrite(const KvWriteArgs& args);
void Attend(const AttendArgs& args);
void AttendSegment(const AttendArgs& args, int64_t segment, float* partials);
void AttendMerge(const AttendArgs& args, const float* partials);

}  // namespace fiddler::generic
