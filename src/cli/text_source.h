// The text that verbs run through a model without generating: a file, or token ids.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/session.h"

namespace fiddler {

struct TextOptions {
  std::string text_file;
  std::string ids_file;

  void Register(CLI::App& verb);  // --text, --ids
};

struct TextTokens {
  std::string file;  // where they are from
  std::vector<int32_t> ids;
};

// The tokens of --text or --ids; with neither, of the model's heldout.txt. Throws Error naming the file, also
// for fewer tokens than `at_least`.
TextTokens ReadTokens(const TextOptions& options, const Session& session, size_t at_least);

}  // namespace fiddler
