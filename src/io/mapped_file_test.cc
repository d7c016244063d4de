#include "io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "io/test_files.h"

namespace fiddler {
namespace {

std::string Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  const TempFolder folder;
  const MappedFile file = MappedFile::Open(folder.Write("f", "fiddler"));
  EXPECT_EQ(file.size(), 7u);
  EXPECT_EQ(Text(file.bytes()), "fiddler");
  EXPECT_EQ(file.path(), folder.path() / "f");
}

TEST(MappedFile, AnEmptyFileHasNoBytes) {
  const TempFolder folder;
  const MappedFile file = MappedFile::Open(folder.Write("empty", ""));
  EXPECT_EQ(file.size(), 0u);
  file.Prefetch(file.bytes());
  file.Read(file.bytes(), nullptr);
}

TEST(MappedFile, MovesWithoutUnmapping) {
  const TempFolder folder;
  MappedFile first = MappedFile::Open(folder.Write("f", "first"));
  MappedFile second = MappedFile::Open(folder.Write("g", "second"));
  const MappedFile moved = std::move(first);
  EXPECT_EQ(Text(moved.bytes()), "first");
  first = std::move(second);
  EXPECT_EQ(Text(first.bytes()), "second");
  EXPECT_EQ(first.path().filename(), "g");
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const TempFolder folder;
  const auto open_error = [](const std::filesystem::path& path) {
    return ErrorOf([&] { MappedFile::Open(path); });
  };
  const std::filesystem::path missing = folder.path() / "missing";
  EXPECT_EQ(open_error(missing), missing.string() + ": cannot open: No such file or directory");
  EXPECT_EQ(open_error(folder.path()), folder.path().string() + ": expected a file, got a directory");
  const std::filesystem::path pipe = folder.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(open_error(pipe),
            pipe.string() + ": expected a file, got a device or pipe");  // and does not hang
}

TEST(MappedFile, HintsChangeNothing) {
  const TempFolder folder;
  const std::string content(100'000, 'x');
  const MappedFile file = MappedFile::Open(folder.Write("f", content));
  const std::span<const std::byte> part = file.bytes().subspan(5'000, 70'001);
  file.Prefetch(part);
  file.DropCache(part);
  EXPECT_EQ(Text(file.bytes()), content);
}

TEST(MappedFile, ReadsAnyPart) {
  const TempFolder folder;
  std::string content;
  for (int i = 0; i < 10'000; ++i) content += std::to_string(i);
  const MappedFile file = MappedFile::Open(folder.Write("f", content));
  std::string part(12'345, '\0');
  file.Read(file.bytes().subspan(777, part.size()), reinterpret_cast<std::byte*>(part.data()));
  EXPECT_EQ(part, content.substr(777, part.size()));
}

TEST(MappedFile, KnowsWhatIsInside) {
  const TempFolder folder;
  const MappedFile file = MappedFile::Open(folder.Write("f", "0123456789"));
  const std::byte outside{};
  EXPECT_TRUE(file.Contains(file.bytes()));
  EXPECT_TRUE(file.Contains(file.bytes().last(1)));
  EXPECT_FALSE(file.Contains({&outside, 1}));
  EXPECT_FALSE(file.Contains({file.bytes().data(), 11}));
}

TEST(MappedFile, ReadOfAFileThatShrankIsAnErrorAndNoCrash) {
  const TempFolder folder;
  const std::filesystem::path path = folder.Write("f", std::string(100'000, 'x'));
  const MappedFile file = MappedFile::Open(path);
  std::filesystem::resize_file(path, 10);
  std::string out(1'000, '\0');
  file.Read(file.bytes().first(10), reinterpret_cast<std::byte*>(out.data()));
  EXPECT_EQ(
      ErrorOf([&] { file.Read(file.bytes().subspan(5, 1'000), reinterpret_cast<std::byte*>(out.data())); }),
      path.string() + ": cannot read bytes 5 to 1005: the file shrank after it was opened");
}

}  // namespace
}  // namespace fiddler
