#include "tokenizer/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"

namespace megatron {
namespace {

// Protocol buffers: a message is a list of (field number, type of encoding, value).
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint32_t number = 0;
  uint32_t type = 0;
  uint64_t integer = 0;    ///< kVarint, kFixed32, kFixed64
  std::string_view bytes;  ///< kBytes

  float as_float() const {
    const auto bits = static_cast<uint32_t>(integer);
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

/// Walks the fields of one message, which is a part of `file`.
class Message {
 public:
  Message(std::string_view bytes, std::string_view file, const std::string& path)
      : bytes_(bytes), file_(file), path_(path) {}

  bool next(Field& field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    if (key >> 3 == 0 || key >> 3 > (1U << 29)) fail("a field has no number");
    field = {static_cast<uint32_t>(key >> 3), static_cast<uint32_t>(key & 7), 0, {}};
    switch (field.type) {
      case kVarint:
        field.integer = varint();
        return true;
      case kFixed64:
        field.integer = fixed(8);
        return true;
      case kFixed32:
        field.integer = fixed(4);
        return true;
      case kBytes:
        field.bytes = take(varint());
        return true;
      default:
        fail(str_cat("unknown type of field ", field.type));
    }
  }
  Message inner(const Field& field) const { return {field.bytes, file_, path_}; }

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(str_cat(path_, ": byte ", bytes_.data() + at_ - file_.data(), ": ", what,
                            "; this is no SentencePiece model, or it is damaged: fetch it again"));
  }
  void require(const Field& field, WireType type, const char* name) const {
    if (field.type != type) fail(str_cat(name, " has another type than it should"));
  }

 private:
  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) fail(str_cat(count, " bytes are expected, ", bytes_.size() - at_, " are left"));
    at_ += static_cast<size_t>(count);
    return bytes_.substr(at_ - static_cast<size_t>(count), static_cast<size_t>(count));
  }
  uint64_t fixed(size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, take(size).data(), size);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
    fail("a number has more than ten bytes");
  }

  std::string_view bytes_, file_;
  const std::string& path_;
  size_t at_ = 0;
};

// Field numbers. ModelProto, SentencePiece, TrainerSpec, NormalizerSpec.
enum ModelField : uint32_t { kPieces = 1, kTrainer = 2, kNormalizer = 3, kDenormalizer = 5 };
enum PieceField : uint32_t { kText = 1, kScore = 2, kKind = 3 };
enum TrainerField : uint32_t {
  kModelType = 3,
  kSpaceAsSuffix = 24,
  kByteFallback = 35,
  kUnknownId = 40,
  kBeginId = 41,
  kEndId = 42,
  kPadId = 43,
  kUnknownSurface = 44
};
enum NormalizerField : uint32_t { kCharsmap = 2, kAddDummyPrefix = 3, kRemoveExtraSpaces = 4, kEscapeSpaces = 5 };

constexpr uint64_t kMostPieces = uint64_t{1} << 24;

SentencePiece read_piece(Message message) {
  SentencePiece piece;
  for (Field field; message.next(field);) {
    if (field.number == kText) {
      message.require(field, kBytes, "the text of a piece");
      piece.text = field.bytes;
    } else if (field.number == kScore) {
      message.require(field, kFixed32, "the score of a piece");
      piece.score = field.as_float();
    } else if (field.number == kKind) {
      message.require(field, kVarint, "the kind of a piece");
      if (field.integer < 1 || field.integer > 6) message.fail(str_cat("unknown kind of piece ", field.integer));
      piece.kind = static_cast<PieceKind>(field.integer);
    }
  }
  return piece;
}

/// Ids in the file are int32; -1 is "none".
std::optional<TokenId> read_id(const Message& message, const Field& field) {
  message.require(field, kVarint, "the id of a special piece");
  const auto id = static_cast<int64_t>(field.integer);
  if (id < 0) return std::nullopt;
  if (id > INT32_MAX) message.fail(str_cat("the id ", id, " is too large"));
  return static_cast<TokenId>(id);
}

void read_trainer(Message message, SentencePieceDefinition& d, uint64_t& model_type) {
  for (Field field; message.next(field);) {
    switch (field.number) {
      case kModelType:
        message.require(field, kVarint, "the kind of model");
        model_type = field.integer;
        break;
      case kSpaceAsSuffix:
        d.suffix_instead = field.integer != 0;
        break;
      case kByteFallback:
        d.byte_fallback = field.integer != 0;
        break;
      case kBeginId:
        d.begin = read_id(message, field);
        break;
      case kEndId:
        d.end = read_id(message, field);
        break;
      case kPadId:
        d.pad = read_id(message, field);
        break;
      case kUnknownSurface:
        message.require(field, kBytes, "the text of unknown pieces");
        d.unknown_surface = field.bytes;
        break;
      default:
        break;  // how it was trained
    }
  }
}

void read_normalizer(Message message, SentencePieceDefinition& d) {
  for (Field field; message.next(field);) {
    if (field.number == kCharsmap) {
      message.require(field, kBytes, "the table of normalisation");
      d.charsmap = field.bytes;
    } else if (field.number == kAddDummyPrefix) {
      d.dummy_prefix = field.integer != 0 ? DummyPrefix::kAlways : DummyPrefix::kNever;
    } else if (field.number == kRemoveExtraSpaces) {
      d.collapse_spaces = field.integer != 0;
    } else if (field.number == kEscapeSpaces) {
      d.mark_spaces = field.integer != 0;
    }
  }
}

void refuse_denormalizer(Message message, const std::string& path) {
  for (Field field; message.next(field);) {
    if (field.number == kCharsmap && !field.bytes.empty()) {
      throw DataError(path +
                      ": the model has a table that changes decoded text (denormalizer_spec), which is not supported");
    }
  }
}

/// Names of the algorithms that we do not have.
[[noreturn]] void refuse_algorithm(const std::string& path, uint64_t type) {
  const char* const name = type == 3 ? "word" : type == 4 ? "char" : "unknown";
  throw DataError(
      str_cat(path, ": SentencePiece models of type ", name, " (", type, ") are not supported; unigram and bpe are"));
}

// ---------------------------------------------------------------------------------------------------------- writing

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(0x80 | (value & 0x7f));
  out += static_cast<char>(value);
}
void put_integer(std::string& out, uint32_t number, uint64_t value) {
  put_varint(out, number << 3 | kVarint);
  put_varint(out, value);
}
void put_bytes(std::string& out, uint32_t number, std::string_view bytes) {
  put_varint(out, number << 3 | kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}
void put_id(std::string& out, uint32_t number, std::optional<TokenId> id) {
  put_integer(out, number, static_cast<uint64_t>(int64_t{id.value_or(-1)}));
}

}  // namespace

SentencePieceDefinition read_sentencepiece_model(const std::string& path) {
  return parse_sentencepiece_model(read_file(path), path);
}

SentencePieceDefinition parse_sentencepiece_model(std::string_view bytes, const std::string& path) {
  SentencePieceDefinition d;
  d.source = path;
  d.begin = 1;  // where the file does not say
  d.end = 2;
  uint64_t model_type = 1;
  Message message(bytes, bytes, path);
  for (Field field; message.next(field);) {
    if (field.number > kDenormalizer) continue;  // extensions
    message.require(field, kBytes, "a part of the model");
    if (field.number == kPieces) {
      if (d.pieces.size() == kMostPieces) message.fail(str_cat("more than ", kMostPieces, " pieces"));
      d.pieces.push_back(read_piece(message.inner(field)));
    }
    if (field.number == kTrainer) read_trainer(message.inner(field), d, model_type);
    if (field.number == kNormalizer) read_normalizer(message.inner(field), d);
    if (field.number == kDenormalizer) refuse_denormalizer(message.inner(field), path);
  }
  if (d.pieces.empty()) message.fail("there are no pieces");
  if (model_type != 1 && model_type != 2) refuse_algorithm(path, model_type);
  d.algorithm = static_cast<SentencePieceDefinition::Algorithm>(model_type);
  for (size_t id = 0; id < d.pieces.size(); ++id) {
    if (d.pieces[id].kind == PieceKind::kUnknown) d.unknown = static_cast<TokenId>(id);
  }
  // Ids of special pieces that were not made stay in the file.
  for (std::optional<TokenId>* id : {&d.begin, &d.end, &d.pad}) {
    const bool there = *id && static_cast<size_t>(**id) < d.pieces.size() &&
                       d.pieces[static_cast<size_t>(**id)].kind == PieceKind::kControl;
    if (!there) id->reset();
  }
  d.strip_space = d.dummy_prefix != DummyPrefix::kNever || d.collapse_spaces;
  check_sentencepiece(d);
  return d;
}

void check_sentencepiece(const SentencePieceDefinition& d) {
  std::unordered_set<std::string_view> texts;
  size_t unknown = 0, bytes = 0;
  for (size_t id = 0; id < d.pieces.size(); ++id) {
    const SentencePiece& piece = d.pieces[id];
    const auto fail = [&](const char* what) {
      throw DataError(str_cat(d.source, ": piece ", id, " ", what, "; the file is damaged: fetch it again"));
    };
    if (piece.text.empty()) fail("is empty");
    if (!texts.insert(piece.text).second) fail("has the text of another one");
    if (!std::isfinite(piece.score)) fail("has no finite score");
    unknown += piece.kind == PieceKind::kUnknown;
    if (piece.kind != PieceKind::kByte) continue;
    if (!piece_byte(piece.text)) fail("is said to be a byte, but is not written <0xXX>");
    ++bytes;
  }
  if (unknown != 1) throw DataError(str_cat(d.source, ": has ", unknown, " unknown pieces, one is expected"));
  if (d.byte_fallback && bytes != 256) {
    throw DataError(str_cat(d.source, ": has ", bytes, " pieces for bytes, but byte_fallback needs all 256"));
  }
}

std::optional<uint8_t> piece_byte(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return std::nullopt;
  uint32_t value = 0;
  for (const char c : text.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9', letter = c >= 'A' && c <= 'F';
    if (!digit && !letter) return std::nullopt;
    value = value * 16 + static_cast<uint32_t>(digit ? c - '0' : c - 'A' + 10);
  }
  return static_cast<uint8_t>(value);
}

std::string sentencepiece_model_bytes(const SentencePieceDefinition& d) {
  std::string model;
  for (const SentencePiece& piece : d.pieces) {
    std::string message;
    put_bytes(message, kText, piece.text);
    put_varint(message, kScore << 3 | kFixed32);
    message.append(reinterpret_cast<const char*>(&piece.score), sizeof piece.score);
    put_integer(message, kKind, static_cast<uint64_t>(piece.kind));
    put_bytes(model, kPieces, message);
  }
  std::string trainer;
  put_integer(trainer, kModelType, static_cast<uint64_t>(d.algorithm));
  put_integer(trainer, kSpaceAsSuffix, d.suffix_instead ? 1 : 0);
  put_integer(trainer, kByteFallback, d.byte_fallback ? 1 : 0);
  put_id(trainer, kUnknownId, d.unknown);
  put_id(trainer, kBeginId, d.begin);
  put_id(trainer, kEndId, d.end);
  put_id(trainer, kPadId, d.pad);
  put_bytes(trainer, kUnknownSurface, d.unknown_surface);
  put_bytes(model, kTrainer, trainer);
  std::string normalizer;
  put_bytes(normalizer, kCharsmap, d.charsmap);
  put_integer(normalizer, kAddDummyPrefix, d.dummy_prefix == DummyPrefix::kNever ? 0 : 1);
  put_integer(normalizer, kRemoveExtraSpaces, d.collapse_spaces ? 1 : 0);
  put_integer(normalizer, kEscapeSpaces, d.mark_spaces ? 1 : 0);
  put_bytes(model, kNormalizer, normalizer);
  return model;
}

}  // namespace megatron
