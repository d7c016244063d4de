// fiddler: runs Mixture-of-Experts models. Exit codes: 0 ok, 1 bad input or environment (one line on stderr),
// 2 usage.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace {

bool IsVerb(const CLI::App& app, std::string_view name) {
  const std::vector<const CLI::App*> verbs = app.get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(verbs.begin(), verbs.end(),
                     [&](const CLI::App* verb) { return verb->get_name() == name; });
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write that meets it (cli/output.h)
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file larger than a limit allows
  CLI::App app("Runs Mixture-of-Experts language models, uncompressed, where they fit best.", "fiddler");
  app.set_version_flag("--version", "fiddler " FIDDLER_VERSION);
  app.require_subcommand(1);
  fiddler::RegisterRun(app);
  fiddler::RegisterInspect(app);
  fiddler::RegisterEval(app);
  fiddler::RegisterBench(app);
  fiddler::RegisterProfile(app);
  fiddler::RegisterCalibrate(app);
  fiddler::RegisterPlan(app);
  fiddler::RegisterSimulate(app);

  constexpr int kBadInput = 1;
  constexpr int kUsage = 2;
  // CLI11 would only say that a subcommand is required.
  if (argc > 1 && argv[1][0] != '-' && !IsVerb(app, argv[1])) {
    fmt::print(stderr, "fiddler: expected a command that --help lists, got '{}'\n", argv[1]);
    return kUsage;
  }
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
  } catch (const std::exception& error) {  // the system refused something nobody foresaw
    fmt::print(stderr, "fiddler: {}\n", error.what());
  }
  return kBadInput;
}
