#include "cli/text_source.h"

#include "base/error.h"
#include "base/file.h"

namespace fiddler {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

std::filesystem::path TextFile(const TextOptions& options, const Session& session) {
  if (!options.text_file.empty()) return options.text_file;
  std::filesystem::path file = session.config().directory / "heldout.txt";
  std::error_code status;
  if (!std::filesystem::exists(file, status)) {
    throw Error("--text: expected a file (or --ids): {} ships no heldout.txt", session.config().name);
  }
  return file;
}

}  // namespace

void TextOptions::Register(CLI::App& verb) {
  CLI::Option* text = verb.add_option("--text", text_file, "file to read (default: the model's heldout.txt)");
  verb.add_option("--ids", ids_file, "file of token ids separated by white space")->excludes(text);
}

TextTokens ReadTokens(const TextOptions& options, const Session& session, size_t at_least) {
  const int64_t vocab_size = session.spec().vocab_size;
  TextTokens tokens;
  if (!options.ids_file.empty()) {
    tokens = {.file = options.ids_file,
              .ids = ParseTokenIds(ReadFile(options.ids_file, kMaxTextBytes), options.ids_file, vocab_size)};
  } else {
    const std::filesystem::path file = TextFile(options, session);
    tokens = {.file = file.string(),
              .ids = session.RequireTokenizer()->Encode(ReadFile(file, kMaxTextBytes),
                                                        /*add_special_tokens=*/true)};
  }
  for (int32_t id : tokens.ids) {
    if (id >= vocab_size) {
      throw Error("{}: expected token ids below vocab_size {}, got {}", tokens.file, vocab_size, id);
    }
  }
  if (tokens.ids.size() < at_least) {
    throw Error("{}: {}: expected at least {} token{}, got {}", options.ids_file.empty() ? "--text" : "--ids",
                tokens.file, at_least == 2 ? "two" : "one", at_least == 1 ? "" : "s", tokens.ids.size());
  }
  return tokens;
}

}  // namespace fiddler
