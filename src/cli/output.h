// Results on stdout. A full disk is an Error; a reader that went away is a ClosedPipe, which ends the program
// quietly.
#pragma once

#include <exception>
#include <string_view>

#include "base/json.h"

namespace fiddler {

using OrderedJson = nlohmann::ordered_json;  // fields in the order they were written down

struct ClosedPipe : std::exception {};

void WriteOutput(std::string_view text);  // appears at once
void WriteJson(const OrderedJson& json);  // one object, one line; broken UTF-8 is replaced
void FlushOutput();

}  // namespace fiddler
