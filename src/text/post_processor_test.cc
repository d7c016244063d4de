#include "text/post_processor.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fiddler::text {
namespace {

using Ids = std::vector<int32_t>;

const Json kText = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
const Json kSpecial = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};

Json Template(const Json& single) {
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", Json::array()},
          {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1, 2}}, {"tokens", {"<", "s>"}}}}}}};
}

Ids Apply(const Json& config, bool add_special_tokens) {
  return PostProcessor(JsonField(config, "test"), /*id_end=*/10).Apply({7, 8}, add_special_tokens);
}

TEST(PostProcessor, PutsSpecialTokensAroundTheText) {
  EXPECT_EQ(Apply(Template({kSpecial, kText, kSpecial}), true), (Ids{1, 2, 7, 8, 1, 2}));
  EXPECT_EQ(Apply(Template({kSpecial, kText, kSpecial}), false), (Ids{7, 8}));
}

TEST(PostProcessor, NoneAndByteLevelChangeNothing) {
  EXPECT_EQ(PostProcessor(std::nullopt, 10).Apply({7}, true), Ids{7});
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
  EXPECT_EQ(Apply(byte_level, true), (Ids{7, 8}));
  EXPECT_EQ(Apply({{"type", "Sequence"}, {"processors", {byte_level, Template({kText, kSpecial})}}}, true),
            (Ids{7, 8, 1, 2}));
}

TEST(PostProcessor, RefusesWhatItDoesNotKnow) {
  const Json other_text = {{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
  const Json other_token = {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}};
  EXPECT_THROW(Apply(Template({other_text}), true), Error);
  EXPECT_THROW(Apply(Template({other_token}), true), Error) << "not among special_tokens";
  EXPECT_THROW(Apply(Template({Json::object()}), true), Error);
  EXPECT_THROW(Apply({{"type", "BertProcessing"}}, true), Error);
  EXPECT_THROW(Apply({{"type", "Sequence"}, {"processors", {Template({kText}), Template({kText})}}}, true),
               Error);
  Json out_of_range = Template({kSpecial});
  out_of_range["special_tokens"]["<s>"]["ids"] = {10};
  EXPECT_THROW(Apply(out_of_range, true), Error);
}

}  // namespace
}  // namespace fiddler::text
