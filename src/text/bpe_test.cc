#include "text/bpe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "base/error.h"

namespace fiddler::text {
namespace {

std::vector<int32_t> Encode(const Json& model, std::string_view word) {
  const Bpe bpe{JsonField(model, "test")};
  BpeScratch scratch;
  std::vector<int32_t> ids;
  bpe.Encode(word, scratch, ids);
  return ids;
}

using Ids = std::vector<int32_t>;

TEST(Bpe, MergesByRankThenFromTheLeft) {
  const Json model = {{"type", "BPE"},
                      {"vocab", {{"a", 0}, {"b", 1}, {"aa", 2}, {"ab", 3}, {"aab", 4}}},
                      {"merges", {"a b", "a a", Json::array({"a", "ab"})}}};
  EXPECT_EQ(Encode(model, "aaab"), (Ids{2, 3}));
  EXPECT_EQ(Encode(model, "aab"), (Ids{4}));
  EXPECT_EQ(Encode(model, "aaaaa"), (Ids{2, 2, 0}));
  EXPECT_EQ(Encode(model, ""), Ids{});
}

TEST(Bpe, APairGivenTwiceTakesTheLaterRank) {
  Json model = {{"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}}}, {"merges", {"a b", "b c"}}};
  EXPECT_EQ(Encode(model, "abc"), (Ids{3, 2}));
  model["merges"].push_back("a b");
  EXPECT_EQ(Encode(model, "abc"), (Ids{0, 4}));
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  Json model = {{"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", Json::array()}};
  EXPECT_EQ(Encode(model, "ab"), (Ids{0, 1}));
  model["ignore_merges"] = true;
  EXPECT_EQ(Encode(model, "ab"), (Ids{2}));
}

TEST(Bpe, UnknownCharacters) {
  Json model = {{"vocab", {{"a", 0}, {"?", 1}}}, {"merges", Json::array()}};
  EXPECT_EQ(Encode(model, "xaxx"), (Ids{0})) << "dropped without unk_token";
  model["unk_token"] = "?";
  EXPECT_EQ(Encode(model, "xaxx"), (Ids{1, 0, 1, 1}));
  model["fuse_unk"] = true;
  EXPECT_EQ(Encode(model, "xaxx"), (Ids{1, 0, 1}));
  model["unk_token"] = "not there";
  EXPECT_EQ(Encode(model, "a"), (Ids{0}));
  EXPECT_THROW(Encode(model, "x"), Error);
}

TEST(Bpe, ByteFallbackNeedsAllBytesOfTheCharacter) {
  const Json model = {{"vocab", {{"a", 0}, {"<0xC3>", 1}, {"<0xA9>", 2}, {"?", 3}}},
                      {"merges", Json::array()},
                      {"unk_token", "?"},
                      {"byte_fallback", true}};
  EXPECT_EQ(Encode(model, "aé"), (Ids{0, 1, 2}));
  EXPECT_EQ(Encode(model, "è"), (Ids{3}));
  EXPECT_EQ(Encode(model, "èéa"), (Ids{1, 2, 3, 0}))
      << "byte tokens overtake a waiting <unk>, as in Hugging Face";
}

// The textbook algorithm: find the best pair, merge it, start again.
using PairMerges = std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>>;  // to rank and new id

Ids EncodeByHand(const PairMerges& merges, Ids ids) {
  for (;;) {
    auto best = merges.end();
    size_t best_position = 0;
    for (size_t i = 1; i < ids.size(); ++i) {
      const auto merge = merges.find({ids[i - 1], ids[i]});
      if (merge == merges.end()) continue;
      if (best != merges.end() && merge->second.first >= best->second.first) continue;
      best = merge;
      best_position = i - 1;
    }
    if (best == merges.end()) return ids;
    ids[best_position] = best->second.second;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best_position) + 1);
  }
}

// Letters a, b, c and up to 12 merges; some tokens can be made in several ways.
struct RandomModel {
  explicit RandomModel(std::mt19937& rng) {
    for (int i = 0; i < 12; ++i) {
      const std::string& left = tokens[rng() % tokens.size()];
      const std::string& right = tokens[rng() % tokens.size()];
      const std::pair<int32_t, int32_t> pair = {IdOf(left), IdOf(right)};
      if (by_pair.contains(pair)) continue;
      const std::string merged = left + right;
      merges.push_back({left, right});
      if (IdOf(merged) == static_cast<int32_t>(tokens.size())) tokens.push_back(merged);
      by_pair[pair] = {static_cast<int>(merges.size()), IdOf(merged)};
    }
  }

  int32_t IdOf(const std::string& token) const {
    return static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), token) - tokens.begin());
  }

  Json ToJson() const {
    Json vocab;
    for (const std::string& token : tokens) vocab[token] = IdOf(token);
    return {{"vocab", vocab}, {"merges", merges}};
  }

  std::vector<std::string> tokens = {"a", "b", "c"};
  Json merges = Json::array();
  PairMerges by_pair;
};

TEST(Bpe, AgreesWithTheTextbookOnRandomModels) {
  std::mt19937 rng(1);
  for (int round = 0; round < 200; ++round) {
    const RandomModel model(rng);
    const Json json = model.ToJson();
    for (int trial = 0; trial < 10; ++trial) {
      std::string word;
      Ids letters;
      for (size_t i = rng() % 40; i > 0; --i) {
        letters.push_back(static_cast<int32_t>(rng() % 3));
        word += model.tokens[static_cast<size_t>(letters.back())];
      }
      EXPECT_EQ(Encode(json, word), EncodeByHand(model.by_pair, letters)) << word << " " << json.dump();
    }
  }
}

TEST(Bpe, WordsSeenBeforeEncodeTheSame) {
  const Json model = {{"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}};
  const Bpe bpe{JsonField(model, "test")};
  BpeScratch scratch;
  Ids ids;
  for (const char* word : {"ab", "b", "ab", "aab", "b"}) bpe.Encode(word, scratch, ids);
  EXPECT_EQ(ids, (Ids{2, 1, 2, 0, 2, 1}));
}

std::string ErrorOf(const Json& model) {
  try {
    Bpe{JsonField(model, "tokenizer.json", "model")};
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Bpe, ErrorsNameWhatIsWrong) {
  const Json good = {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}};
  ASSERT_EQ(ErrorOf(good), "none");
  const auto with = [&](const char* name, Json value) {
    Json model = good;
    model[name] = std::move(value);
    return ErrorOf(model);
  };
  EXPECT_EQ(with("type", "Unigram"), R"(tokenizer.json: model.type: expected BPE, got "Unigram")");
  EXPECT_EQ(with("merges", {"a b", "b x"}),
            R"(tokenizer.json: model.merges[1]: expected tokens of the vocabulary, got "x")");
  EXPECT_EQ(with("merges", {"b a"}),
            R"(tokenizer.json: model.merges[0]: expected tokens of the vocabulary, got "ba")");
  EXPECT_EQ(with("merges", {"a b c"}),
            R"(tokenizer.json: model.merges[0]: expected ["left", "right"] or "left right", got "a b c")");
  EXPECT_EQ(with("merges", {1}),
            R"(tokenizer.json: model.merges[0]: expected ["left", "right"] or "left right", got 1)");
  EXPECT_EQ(with("vocab", {{"a", 0}, {"b", 0}}),
            R"(tokenizer.json: model.vocab.b: expected an id of its own, got 0, which a has)");
  EXPECT_EQ(with("vocab", {{"a", -1}}),
            "tokenizer.json: model.vocab.a: expected an id from 0 to 2097151, got -1");
  EXPECT_EQ(with("vocab", {{"a", 1u << 31}}),
            "tokenizer.json: model.vocab.a: expected an id from 0 to 2097151, got 2147483648");
  EXPECT_EQ(with("dropout", 0.1), "tokenizer.json: model.dropout: expected no dropout, got 0.1");
  EXPECT_EQ(with("end_of_word_suffix", "</w>"),
            R"(tokenizer.json: model.end_of_word_suffix: expected none, got "</w>")");
  EXPECT_EQ(with("cache", 1),
            R"(tokenizer.json: model: expected only options this build knows, got "cache")");
  EXPECT_EQ(with("fuse_unk", "yes"), R"(tokenizer.json: model.fuse_unk: expected true or false, got "yes")");
  EXPECT_EQ(with("vocab", nullptr), R"(tokenizer.json: model: expected a member "vocab", got none)");
  EXPECT_EQ(with("continuing_subword_prefix", ""), "none") << "as in the file of GPT-2";
}

}  // namespace
}  // namespace fiddler::text
