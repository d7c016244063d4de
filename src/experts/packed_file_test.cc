#include "experts/packed_file.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <barrier>
#include <cerrno>
#include <cstddef>
#include <thread>

#include "base/error_testing.h"
#include "experts/packed_testing.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

TEST(PackedHeaderTest, IsReadAsItIsWritten) {
  for (const char* identity : {"", "file a, 1 bytes\n", "12345678"}) {
    PackedHeader header = TestHeader(3, 5);
    header.identity = identity;
    for (int64_t i = 0; i < header.count(); ++i) header.checksums.push_back(static_cast<uint64_t>(i * i));
    const std::string bytes = SerializePackedHeader(header);
    EXPECT_EQ(bytes.size() % PackedHeader::kPageBytes, 0U);
    const PackedHeader read = ParsePackedHeader(std::as_bytes(std::span(bytes)), header.file_bytes(), "f");
    EXPECT_TRUE(read.Describes(header));
    EXPECT_EQ(read.checksums, header.checksums);
    EXPECT_NE(
        ErrorOf([&] { ParsePackedHeader(std::as_bytes(std::span(bytes)), header.file_bytes() - 1, "f"); }),
        "");
  }
}

TEST(PackedHeaderTest, EveryChangedByteIsNoticed) {
  PackedHeader header = TestHeader(2, 2);
  header.checksums = {1, 2, 3, 4};
  const std::string bytes = SerializePackedHeader(header);
  for (size_t i = 0; i < header.bytes(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 4);
    EXPECT_NE(
        ErrorOf([&] { ParsePackedHeader(std::as_bytes(std::span(changed)), header.file_bytes(), "f"); }), "")
        << i;
  }
}

TEST(PackedHeaderTest, WhatDescribesSomethingElse) {
  const PackedHeader header = TestHeader(2, 3);
  EXPECT_TRUE(header.Describes(header));
  PackedHeader other = header;
  other.identity += "x";
  EXPECT_FALSE(header.Describes(other));
  other = header;
  other.expert.format = WeightFormat::kInt4;
  EXPECT_FALSE(header.Describes(other));
  other = header;
  other.expert.slice_neurons = 128;
  EXPECT_FALSE(header.Describes(other));
  EXPECT_FALSE(header.Describes(TestHeader(3, 2)));
}

TEST(PackedFileTest, EveryExpertIsThere) {
  for (const bool large : {false, true}) {
    const PackedFolder folder;
    const PackedHeader header = TestHeader(2, 3, large);
    const PackedFile file = WriteTestFile(folder.file(), header);
    EXPECT_EQ(fs::file_size(folder.file()), header.file_bytes());
    EXPECT_EQ(file.pieces() > 2, large);
    const HugePageBuffer memory(header.stride(), "test");
    for (int64_t i = 0; i < header.count(); ++i) {
      for (int64_t piece = 0; piece < file.pieces(); ++piece) {
        file.ReadPiece(i, piece,
                       memory.bytes().data() + static_cast<uint64_t>(piece) * PackedHeader::kPieceBytes);
      }
      EXPECT_TRUE(IsExpert(header, i, memory.bytes().data())) << i;
    }
    EXPECT_EQ(folder.CountFiles(), 1U);
  }
}

TEST(PackedFileTest, IsReusedForTheSameAndRewrittenForAnother) {
  const PackedFolder folder;
  PackedHeader header = TestHeader(2, 3);
  std::atomic<int> packed = 0;
  const PackExpert count = [&](int64_t index, int, std::byte* out) {
    ++packed;
    MakeExpert(header, index, out);
  };
  WriteTestFile(folder.file(), header, count);
  EXPECT_EQ(packed, 6);
  WriteTestFile(folder.file(), header, count);
  EXPECT_EQ(packed, 6) << "written again";
  header.identity = "made for another test\n";
  EXPECT_FALSE(PackedFile::Find(folder.file(), header));
  WriteTestFile(folder.file(), header, count);
  EXPECT_EQ(packed, 12);
  FlipByte(folder.file(), 100);  // in the header
  EXPECT_FALSE(PackedFile::Find(folder.file(), header));
  WriteTestFile(folder.file(), header, count);
  EXPECT_EQ(packed, 18);
  fs::resize_file(folder.file(), header.file_bytes() - 1);
  EXPECT_FALSE(PackedFile::Find(folder.file(), header));
  EXPECT_EQ(folder.CountFiles(), 1U);
}

TEST(PackedFileTest, NeverOverwritesWhatIsNoPackedFile) {
  const PackedFolder folder;
  for (const std::string& content : {std::string(), std::string("my thesis"), std::string(5000, 'x')}) {
    std::ofstream(folder.file()) << content;
    const std::string error = ErrorOf([&] { WriteTestFile(folder.file(), TestHeader(1, 2)); });
    EXPECT_EQ(error, folder.file().string() + ": expected a packed expert file or none, got something else");
    EXPECT_EQ(fs::file_size(folder.file()), content.size());
  }
}

fs::path PartialFileOf(const PackedFolder& folder) {
  return folder.file().parent_path() / ("." + folder.file().filename().string() + ".fiddler-partial");
}

TEST(PackedFileTest, WhatAKilledWriterLeftIsTakenOver) {
  const PackedFolder folder;
  const PackedHeader header = TestHeader(2, 3);
  for (const std::string& left :
       {std::string(), std::string(PackedHeader::kMagic) + std::string(1 << 20, 'x')}) {
    std::ofstream(PartialFileOf(folder)) << left;
    WriteTestFile(folder.file(), header);
    EXPECT_TRUE(PackedFile::Find(folder.file(), header));
    EXPECT_EQ(folder.CountFiles(), 1U);
    fs::remove(folder.file());
  }
}

TEST(PackedFileTest, IsKnownAsOursWhileItIsWritten) {
  const PackedFolder folder;
  const PackedHeader header = TestHeader(2, 3);
  std::string start(PackedHeader::kMagic.size(), ' ');
  WriteTestFile(folder.file(), header, [&](int64_t index, int, std::byte* out) {
    if (index == 0)
      std::ifstream(PartialFileOf(folder)).read(start.data(), static_cast<std::streamsize>(start.size()));
    MakeExpert(header, index, out);
  });
  EXPECT_EQ(start, PackedHeader::kMagic);
}

TEST(PackedFileTest, FilesOfSimilarNamesAreLeftAlone) {
  const PackedFolder folder;
  const std::string thesis = "my thesis";
  const fs::path other = folder.file().string() + ".tmp";
  std::ofstream(other) << thesis;
  WriteTestFile(folder.file(), TestHeader(1, 2));
  EXPECT_EQ(fs::file_size(other), thesis.size());
  fs::remove(folder.file());
  std::ofstream(PartialFileOf(folder)) << thesis;
  EXPECT_EQ(ErrorOf([&] { WriteTestFile(folder.file(), TestHeader(1, 2)); }),
            PartialFileOf(folder).string() +
                ": expected packed experts half-written or no file, got something else");
  EXPECT_EQ(fs::file_size(PartialFileOf(folder)), thesis.size());
  EXPECT_FALSE(fs::exists(folder.file()));
}

// From here on this thread cannot lock files, as on some network file systems. False if the system has no
// such filters.
bool RefuseLocks() {
  sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_flock, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOLCK),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program = {.len = std::size(filter), .filter = filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(PackedFileTest, WithoutLocksWritersShareNothing) {
  bool can_refuse = false;
  std::jthread([&] { can_refuse = RefuseLocks(); }).join();
  if (!can_refuse) GTEST_SKIP() << "no seccomp";
  const PackedFolder folder;
  const PackedHeader header = TestHeader(2, 3);
  std::barrier both(2);  // as both are writing
  {
    std::vector<std::jthread> writers;
    for (int i = 0; i < 2; ++i) {
      writers.emplace_back([&] {
        RefuseLocks();
        WriteTestFile(folder.file(), header, [&](int64_t index, int, std::byte* out) {
          if (index == 0) both.arrive_and_wait();
          MakeExpert(header, index, out);
        });
      });
    }
  }
  EXPECT_TRUE(PackedFile::Find(folder.file(), header));
  EXPECT_EQ(folder.CountFiles(), 1U);
}

TEST(PackedFileTest, TwoWritersWriteOnce) {
  const PackedFolder folder;
  const PackedHeader header = TestHeader(4, 8);
  std::atomic<int> packed = 0;
  const PackExpert count = [&](int64_t index, int, std::byte* out) {
    ++packed;
    MakeExpert(header, index, out);
  };
  {
    std::vector<std::jthread> writers;
    for (int i = 0; i < 4; ++i) writers.emplace_back([&] { WriteTestFile(folder.file(), header, count); });
  }
  EXPECT_EQ(packed, header.count());
  EXPECT_TRUE(PackedFile::Find(folder.file(), header));
  EXPECT_EQ(folder.CountFiles(), 1U);
}

TEST(PackedFileTest, AFailureLeavesNothing) {
  const PackedFolder folder;
  const PackExpert fail = [](int64_t index, int, std::byte*) {
    if (index == 3) throw Error("the checkpoint's disk failed");
  };
  EXPECT_EQ(ErrorOf([&] { WriteTestFile(folder.file(), TestHeader(2, 3), fail); }),
            "the checkpoint's disk failed");
  EXPECT_EQ(folder.CountFiles(), 0U);
}

TEST(PackedFileTest, MoreThanTheDiskHasIsRefusedInWords) {
  const PackedFolder folder;
  PackedHeader header = TestHeader(1 << 12, 1 << 11);
  header.expert.hidden = 1 << 20;
  header.expert.intermediate = 1 << 14;  // 422 PiB
  ThreadPool pool(1, DiscoverTopology());
  NoProgress progress;
  std::byte* const none[] = {nullptr};
  const std::string error =
      ErrorOf([&] { FindOrWritePackedFile(folder.file(), header, pool, none, {}, progress); });
  EXPECT_TRUE(error.find("of free disk space for the packed experts, got") != std::string::npos) << error;
  EXPECT_EQ(folder.CountFiles(), 0U);
}

// Limits the size of files while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  sighandler_t handler_;
  rlimit before_ = {};
};

TEST(PackedFileTest, ADiskThatIsFullIsOneErrorAndLeavesNothing) {
  const PackedFolder folder;
  const PackedHeader header = TestHeader(2, 3);
  {
    const FileSizeLimit limit(100'000);
    const std::string error = ErrorOf([&] { WriteTestFile(folder.file(), header); });
    EXPECT_EQ(error, folder.file().string() + ": packed experts: cannot reserve the file: File too large");
  }
  EXPECT_EQ(folder.CountFiles(), 0U);
  // Half-way, although the room was reserved.
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  std::optional<FileSizeLimit> limit;
  const PackExpert make = [&](int64_t index, int, std::byte* out) {
    MakeExpert(header, index, out);
    if (index == 2) limit.emplace(100'000);
  };
  const std::string error = ErrorOf([&] { WriteTestFile(folder.file(), header, make); });
  limit.reset();
  EXPECT_EQ(error, folder.file().string() + ": packed experts: cannot write the file: File too large");
  EXPECT_EQ(folder.CountFiles(), 0U);
}

}  // namespace
}  // namespace fiddler
