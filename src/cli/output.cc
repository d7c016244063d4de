#include "cli/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace fiddler {

void WriteOutput(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) FlushOutput();
  FlushOutput();
}

void WriteJson(const OrderedJson& json) {
  WriteOutput(json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

void FlushOutput() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  if (errno == EPIPE) throw ClosedPipe();
  throw Error("stdout: cannot write: {}", std::strerror(errno));
}

}  // namespace fiddler
