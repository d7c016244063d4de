// Runs a fuzz target without libFuzzer: every file of a corpus, and mutations of each that are the same in
// every run. Each file has a process of its own, so that a crash is reported with the input that caused it.
//   replay CORPUS
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using namespace fiddler;

constexpr uint32_t kMutations = 2000;  // of each file, as far as time allows
constexpr std::chrono::seconds kTimeForAll{10};
constexpr unsigned kHangSeconds = 60;  // a whole file with its mutations; sanitizers included

struct Seed {
  std::string name;
  std::string content;
};

std::vector<Seed> ReadCorpus(const std::filesystem::path& folder) {
  std::vector<Seed> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    seeds.push_back({entry.path().filename().string(), ReadFile(entry.path(), size_t{16} << 20)});
  }
  if (seeds.empty()) throw Error("{}: expected files to start from, got none", folder.string());
  std::ranges::sort(seeds, {}, &Seed::name);
  return seeds;
}

size_t Below(Rng& rng, size_t limit) { return rng.NextBits() % limit; }

// One random change. `other` is what a splice takes its second half from.
void MutateOnce(std::string& input, const std::string& other, Rng& rng) {
  if (input.empty()) {
    input = other.substr(0, Below(rng, other.size() + 1));
    return;
  }
  const size_t at = Below(rng, input.size());
  const size_t length = 1 + Below(rng, std::min<size_t>(input.size() - at, 16));
  switch (Below(rng, 8)) {
    case 0:
      input[at] = static_cast<char>(input[at] ^ (1 << Below(rng, 8)));
      break;
    case 1:
      input[at] = static_cast<char>(rng.NextBits());
      break;
    case 2:
      input[at] = "\"\\{}[],:0-9.eE\x00\x7f\xff"[Below(rng, 17)];
      break;
    case 3:
      input.resize(at);
      break;
    case 4:
      input.erase(at, length);
      break;
    case 5:
      input.insert(at, input.substr(at, length));
      break;
    case 6:
      input.insert(at, std::string(length, static_cast<char>('0' + Below(rng, 10))));
      break;
    default:
      input = input.substr(0, at) + other.substr(Below(rng, other.size() + 1));
      break;
  }
}

// Input number n of a seed: 0 is the file itself.
std::string MakeInput(const std::vector<Seed>& seeds, size_t seed, uint32_t n) {
  std::string input = seeds[seed].content;
  Rng rng((static_cast<uint64_t>(seed) << 32) + n);
  for (size_t changes = n == 0 ? 0 : 1 + Below(rng, 4); changes > 0; --changes) {
    MutateOnce(input, seeds[Below(rng, seeds.size())].content, rng);
  }
  return input;
}

// In the child process. `next` is shared with the parent: the number of the input under test.
void RunSeed(const std::vector<Seed>& seeds, size_t seed, std::atomic<uint32_t>& next) {
  const auto stop = std::chrono::steady_clock::now() + kTimeForAll / static_cast<double>(seeds.size());
  alarm(kHangSeconds);
  for (next = 0; next <= kMutations; ++next) {
    if (next > 0 && std::chrono::steady_clock::now() > stop) break;
    const std::string input = MakeInput(seeds, seed, next);
    // A copy of exactly that size, so that AddressSanitizer sees every read past its end.
    const std::vector<uint8_t> bytes(input.begin(), input.end());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
}

// Returns how many inputs ran. Throws Error if one of them ended the process.
uint32_t RunSeedInChild(const std::vector<Seed>& seeds, size_t seed, std::atomic<uint32_t>& next) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw Error("expected a child process, got none");
  if (child == 0) {
    RunSeed(seeds, seed, next);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return next;
  const std::string crash = fmt::format("crash-{}-{}", seeds[seed].name, next.load());
  std::ofstream(crash, std::ios::binary) << MakeInput(seeds, seed, next);
  throw Error("{}: expected input {} to return, got {} {}; wrote it to {}", seeds[seed].name, next.load(),
              WIFSIGNALED(status) ? "signal" : "exit status",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), crash);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: {} CORPUS\n", argv[0]);
    return 2;
  }
  try {
    const std::vector<Seed> seeds = ReadCorpus(argv[1]);
    void* page = mmap(nullptr, sizeof(uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    auto& next = *new (page) std::atomic<uint32_t>(0);  // what a child writes, the parent sees
    uint64_t inputs = 0;
    for (size_t seed = 0; seed < seeds.size(); ++seed) {
      inputs += RunSeedInChild(seeds, seed, next);
    }
    fmt::print("{}: {} files, {} inputs ran\n", argv[1], seeds.size(), inputs);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", argv[1], error.what());
    return 1;
  }
}
