// fiddler: runs Mixture-of-Experts models. Exit codes: 0 ok, 1 bad input or environment (one line on stderr),
// 2 usage.
#include <csignal>
#include <cstdio>
#include <new>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write that meets it (cli/output.h)
  CLI::App app("Runs Mixture-of-Experts language models, uncompressed, where they fit best.", "fiddler");
  app.set_version_flag("--version", "fiddler " FIDDLER_VERSION);
  app.require_subcommand(1);
  fiddler::RegisterRun(app);
  fiddler::RegisterInspect(app);
  fiddler::RegisterEval(app);
  fiddler::RegisterBench(app);

  constexpr int kBadInput = 1;
  constexpr int kUsage = 2;
  try {
    app.parse(argc, argv);
    fiddler::FlushOutput();
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;  // 0: --help, --version
  } catch (const fiddler::ClosedPipe&) {
    return 0;  // the reader has seen enough
  } catch (const fiddler::Error& error) {
    fmt::print(stderr, "fiddler: {}\n", error.what());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "fiddler: out of memory\n");
  } catch (const std::filesystem::filesystem_error& error) {
    fmt::print(stderr, "fiddler: {}\n", error.what());
  }
  return kBadInput;
}
