// Strings out of JSON, one object a line, at reading speed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace megatron {

/// One document: the texts of one key. A string gives one text; a list of strings gives one each (Megatron-LM's form
/// of text that is already split into sentences).
using JsonTexts = std::vector<std::string>;

/// Takes the values of `keys` out of one line, which must be a JSON object (RFC 8259); values[i] belongs to keys[i].
/// DataError "file:line: ..." when the line is malformed, a key is missing, or its value is no text.
void extract_texts(std::string_view line, const std::vector<std::string>& keys, const std::string& file,
                   int64_t line_number, std::vector<JsonTexts>& values);

/// The quick way of the above, for tests: false when it leaves the line to the full parser. It takes a line only when
/// that is well-formed JSON and all keys are there exactly once, as plain strings.
bool extract_texts_fast(std::string_view line, const std::vector<std::string>& keys, std::vector<JsonTexts>& values);

}  // namespace megatron
