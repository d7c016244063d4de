// The verbs of the command line; each is one file. Register adds the verb to the parser; when the user chose
// it, its callback runs it: throws Error for bad input, writes its result to stdout and everything else to
// stderr.
#pragma once

#include <CLI/CLI.hpp>

namespace fiddler {

void RegisterRun(CLI::App& app);
void RegisterInspect(CLI::App& app);
void RegisterEval(CLI::App& app);
void RegisterBench(CLI::App& app);
void RegisterProfile(CLI::App& app);
void RegisterCalibrate(CLI::App& app);
void RegisterPlan(CLI::App& app);
void RegisterSimulate(CLI::App& app);

}  // namespace fiddler
