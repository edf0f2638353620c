// A model file of `edgeface export` in C++17: its contract, its golden vectors, aligned faces. One header, no dependency.
//
// docs/contract.md says what each key means. Whatever a file holds, reading it either gives a contract or throws
// edgeface::Error with one line; nothing is read outside the bytes that were given.

#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <locale>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgeface {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void require(bool condition, const std::string& message) {
  if (!condition) throw Error(message);
}

using Bytes = std::vector<std::uint8_t>;

/** A file's content. */
inline Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path + ": cannot be opened");
  Bytes bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  require(!file.bad(), path + ": cannot be read");
  return bytes;
}

/** Bytes that know where they end. Numbers are little-endian on any machine. */
class View {
 public:
  View(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  View(const Bytes& bytes) : View(bytes.data(), bytes.size()) {}

  std::size_t size() const { return size_; }

  View part(std::uint64_t at, std::uint64_t length) const {
    require(at <= size_ && length <= size_ - at, "not a whole model: a field runs past the end");
    return {data_ + at, static_cast<std::size_t>(length)};
  }

  std::uint64_t number(std::uint64_t at, int width) const {
    const View bytes = part(at, width);
    std::uint64_t value = 0;
    for (int i = 0; i < width; i++) value |= std::uint64_t{bytes.data_[i]} << 8 * i;
    return value;
  }

  std::string text() const { return {reinterpret_cast<const char*>(data_), size_}; }

  bool holds(std::size_t at, std::string_view wanted) const {
    return at <= size_ && wanted.size() <= size_ - at && std::memcmp(data_ + at, wanted.data(), wanted.size()) == 0;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

// The text under the key "edgeface" in each format: three small walks.

using Text = std::optional<std::string>;
constexpr std::string_view KEY = "edgeface";

/** ONNX: calls `each(number, payload)` for every length-delimited field of a protobuf message. */
template <typename Each>
void each_field(const View& message, Each each) {
  std::uint64_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const std::uint64_t byte = message.number(at++, 1);
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw Error("not a whole ONNX model: a varint of more than ten bytes");
  };
  while (at < message.size()) {
    const std::uint64_t tag = varint();
    const std::uint64_t wire = tag & 7;
    require(tag >> 3 && (wire < 3 || wire == 5), "neither an ONNX nor a TFLite model");
    if (wire == 0) {
      varint();
      continue;
    }
    const std::uint64_t length = wire == 1 ? 8 : wire == 5 ? 4 : varint();
    const View payload = message.part(at, length);
    if (wire == 2) each(tag >> 3, payload);
    at += length;
  }
}

inline Text onnx_text(const View& model) {
  constexpr std::uint64_t METADATA_PROPS = 14;  // of ModelProto, onnx/onnx.proto
  Text found;
  each_field(model, [&](std::uint64_t number, const View& entry) {
    if (number != METADATA_PROPS) return;
    std::string key, value;
    each_field(entry, [&](std::uint64_t field, const View& text) {
      if (field == 1) key = text.text();
      if (field == 2) value = text.text();
    });
    if (key == KEY) found = value;
  });
  return found;
}

/** TFLite: one FlatBuffer table; fields are looked up by their number in the schema. */
class Table {
 public:
  Table(const View& file, std::uint64_t at) : file_(file), at_(at) {
    const auto back = static_cast<std::int32_t>(static_cast<std::uint32_t>(file.number(at, 4)));
    vtable_ = static_cast<std::uint64_t>(static_cast<std::int64_t>(at) - back);
    entries_ = file.number(vtable_, 2);
  }

  std::uint64_t scalar(int field, int width) const {
    const std::uint64_t spot = place(field);
    return spot ? file_.number(spot, width) : 0;
  }

  /** (first element, number of elements) of a vector; both 0 where it is absent. */
  std::pair<std::uint64_t, std::uint64_t> vector(int field) const {
    const std::uint64_t spot = place(field);
    if (!spot) return {0, 0};
    const std::uint64_t at = spot + file_.number(spot, 4);
    return {at + 4, file_.number(at, 4)};
  }

  View bytes(int field) const {
    const auto [at, count] = vector(field);
    return file_.part(at, count);
  }

  std::uint64_t count(int field) const { return vector(field).second; }

  Table table(int field, std::uint64_t index) const {
    const auto [start, count] = vector(field);
    require(index < count, "not a whole TFLite model: a table that is not there");
    const std::uint64_t spot = start + 4 * index;
    return {file_, spot + file_.number(spot, 4)};
  }

 private:
  std::uint64_t place(int field) const {
    const std::uint64_t entry = 4 + 2 * static_cast<std::uint64_t>(field);
    const std::uint64_t offset = entry + 2 <= entries_ ? file_.number(vtable_ + entry, 2) : 0;
    return offset ? at_ + offset : 0;
  }

  View file_;
  std::uint64_t at_, vtable_, entries_;
};

inline Text tflite_text(const View& file) {
  // Of tensorflow/lite/schema/schema.fbs: Model.buffers, Model.metadata; Metadata.name, .buffer; Buffer.data, .offset, .size.
  constexpr int BUFFERS = 4, METADATA = 6, NAME = 0, BUFFER = 1, DATA = 0, OFFSET = 1, SIZE = 2;
  const Table model(file, file.number(0, 4));
  Text found;
  for (std::uint64_t i = 0; i < model.count(METADATA); i++) {
    const Table entry = model.table(METADATA, i);
    if (entry.bytes(NAME).text() != KEY) continue;
    const Table buffer = model.table(BUFFERS, entry.scalar(BUFFER, 4));
    const std::uint64_t behind = buffer.scalar(OFFSET, 8);  // of data behind the FlatBuffer; 0 and 1 mean none
    found = (behind > 1 ? file.part(behind, buffer.scalar(SIZE, 8)) : buffer.bytes(DATA)).text();
  }
  return found;
}

/** ncnn: a tar archive with model.param, model.bin and edgeface.json; the member's bytes. */
inline std::optional<View> tar_member(const View& file, const std::string& wanted) {
  constexpr std::uint64_t BLOCK = 512;
  std::optional<View> found;
  for (std::uint64_t at = 0; at + BLOCK <= file.size() && file.number(at, 1);) {
    const std::string name = file.part(at, 100).text();
    std::uint64_t size = 0;
    for (const char digit : file.part(at + 124, 12).text()) {
      if (digit == '\0' || digit == ' ') break;
      require(digit >= '0' && digit <= '7', "not a whole tar archive");
      size = 8 * size + (digit - '0');
    }
    const View content = file.part(at + BLOCK, size);
    if (name.substr(0, name.find('\0')) == wanted) found = content;
    at += BLOCK + (size + BLOCK - 1) / BLOCK * BLOCK;
  }
  return found;
}

/** The contract's JSON, from an ONNX, TFLite or ncnn file's bytes. */
inline std::string contract_text(const View& file) {
  require(file.size(), "the file is empty");
  Text text;
  if (file.holds(4, "TFL3")) {
    text = tflite_text(file);
  } else if (file.holds(257, "ustar")) {
    if (const auto member = tar_member(file, "edgeface.json")) text = member->text();
  } else {
    text = onnx_text(file);
  }
  require(text.has_value(), "the file carries no edgeface contract; export it with edgeface");
  return *text;
}

/** A JSON value, as little as a contract needs. */
struct Json {
  enum Kind { null, boolean, number, string, array, object } kind = null;
  bool truth = false;
  double value = 0;
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> members;

  /** A member that must be there and of this kind. */
  const Json& at(const std::string& key, Kind wanted) const {
    const auto found = members.find(key);
    require(found != members.end(), "the contract has no " + key);
    require(found->second.kind == wanted, "the contract's " + key + " is of another type");
    return found->second;
  }
};

class JsonReader {
 public:
  static Json read(const std::string& text) {
    JsonReader reader(text);
    Json value = reader.value(0);
    reader.space();
    reader.expect(reader.at_ == text.size());
    return value;
  }

 private:
  static constexpr int DEEPEST = 64;

  explicit JsonReader(const std::string& text) : text_(text) {}

  static void expect(bool condition) { require(condition, "the contract is not JSON"); }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char wanted) { return peek() == wanted && at_ < text_.size() ? (at_++, true) : false; }
  void space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) at_++;
  }
  bool word(std::string_view wanted) {
    if (text_.compare(at_, wanted.size(), wanted) != 0) return false;
    at_ += wanted.size();
    return true;
  }

  Json value(int depth) {
    expect(depth < DEEPEST);
    space();
    Json made;
    if (take('{')) {
      made.kind = Json::object;
      for (bool first = true; space(), !take('}'); first = false) {
        expect(first || take(','));
        space();
        std::string key = string();
        space();
        expect(take(':'));
        made.members[std::move(key)] = value(depth + 1);
      }
    } else if (take('[')) {
      made.kind = Json::array;
      for (bool first = true; space(), !take(']'); first = false) {
        expect(first || take(','));
        made.items.push_back(value(depth + 1));
      }
    } else if (peek() == '"') {
      made.kind = Json::string;
      made.text = string();
    } else if (word("true") || word("false")) {
      made.kind = Json::boolean;
      made.truth = text_[at_ - 2] == 'u';
    } else if (!word("null")) {
      made.kind = Json::number;
      made.value = number();
    }
    return made;
  }

  double number() {
    const std::size_t start = at_;
    const auto digits = [&] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') at_++;
      expect(at_ > first);
    };
    take('-');
    digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    std::istringstream stream(text_.substr(start, at_ - start));
    stream.imbue(std::locale::classic());  // a point is a point, whatever the user's language
    double read = 0;
    stream >> read;
    expect(!stream.fail() && std::isfinite(read));
    return read;
  }

  std::string string() {
    expect(take('"'));
    std::string made;
    while (!take('"')) {
      expect(at_ < text_.size() && static_cast<unsigned char>(peek()) >= 0x20);
      if (!take('\\')) {
        made += text_[at_++];
        continue;
      }
      const std::size_t which = std::string_view("\"\\/bfnrtu").find(at_ < text_.size() ? text_[at_++] : ' ');
      expect(which != std::string_view::npos);
      if (which < 8) {
        made += "\"\\/\b\f\n\r\t"[which];
        continue;
      }
      std::uint32_t code = hex();
      if (code >= 0xD800 && code < 0xDC00 && word("\\u")) code = 0x10000 + ((code & 0x3FF) << 10 | (hex() & 0x3FF));
      const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      made += static_cast<char>(more ? (0xFF << (7 - more) & 0xFF) | code >> 6 * more : code);
      for (int k = more - 1; k >= 0; k--) made += static_cast<char>(0x80 | (code >> 6 * k & 0x3F));
    }
    return made;
  }

  std::uint32_t hex() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
      const std::size_t digit = std::string_view("0123456789abcdef").find(static_cast<char>(std::tolower(peek())));
      expect(at_ < text_.size() && digit != std::string_view::npos);
      at_++;
      code = code << 4 | static_cast<std::uint32_t>(digit);
    }
    return code;
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

/** What an app needs of the contract, schema 1; `json` has all of it. */
struct Contract {
  std::string name, precision, licence;
  int size = 0;             // of an aligned face, in pixels
  bool is_planar = false;   // NCHW: all of one channel, then the next
  bool is_float = false;    // feed (pixel - mean) / std as float32; else the pixels as they are
  bool is_bgr = false;
  std::array<float, 3> mean{}, std{};
  int length = 0;                           // floats of an embedding
  std::map<double, double> thresholds;      // false match rate -> least cosine of "the same person"
  std::vector<std::vector<float>> golden;   // unit embeddings of the probe images; empty where there are none
  double min_cosine = 0;
  Json json;
};

inline int whole(const Json& json, int low, int high, const std::string& what) {
  require(json.value >= low && json.value <= high && json.value == std::floor(json.value), "the contract's " + what + " is out of range");
  return static_cast<int>(json.value);
}

inline bool one_of(const Json& input, const std::string& key, const char* no, const char* yes) {
  const std::string& text = input.at(key, Json::string).text;
  require(text == no || text == yes, "the contract's input." + key + " is neither " + no + " nor " + yes);
  return text == yes;
}

inline std::vector<float> floats(const Json& array, std::size_t count, const std::string& what) {
  require(array.kind == Json::array && array.items.size() == count, "the contract's " + what + " has another length");
  std::vector<float> made;
  for (const Json& item : array.items) {
    require(item.kind == Json::number, "the contract's " + what + " holds something that is no number");
    made.push_back(static_cast<float>(item.value));
  }
  return made;
}

/** The contract inside an ONNX, TFLite or ncnn file's bytes. */
inline Contract read_contract(const View& file) {
  Contract made;
  made.json = JsonReader::read(contract_text(file));
  const Json& json = made.json;
  require(json.kind == Json::object, "the contract is not an object");
  const double schema = json.at("schema", Json::number).value;
  require(schema <= 1, "the contract has a newer schema: update this reader");
  made.name = json.at("name", Json::string).text;
  made.precision = json.at("precision", Json::string).text;
  made.licence = json.at("licence", Json::string).text;
  const Json& input = json.at("input", Json::object);
  made.size = whole(input.at("size", Json::number), 1, 4096, "input.size");
  made.is_planar = one_of(input, "layout", "NHWC", "NCHW");
  made.is_float = one_of(input, "dtype", "uint8", "float32");
  made.is_bgr = one_of(input, "colour", "RGB", "BGR");
  const auto mean = floats(input.at("mean", Json::array), 3, "input.mean");
  const auto std = floats(input.at("std", Json::array), 3, "input.std");
  for (int c = 0; c < 3; c++) {
    require(std[c] > 0, "the contract's input.std holds a value that is not positive");
    made.mean[c] = mean[c], made.std[c] = std[c];
  }
  const Json& embedding = json.at("embedding", Json::object);
  made.length = whole(embedding.at("length", Json::number), 1, 1 << 20, "embedding.length");
  for (const auto& [rate, threshold] : json.at("thresholds", Json::object).members) {
    if (threshold.kind != Json::object) continue;  // null: too few photos to tell
    std::istringstream stream(rate);
    stream.imbue(std::locale::classic());
    double far = 0;
    stream >> far;
    require(!stream.fail() && far > 0 && far <= 1, "the contract's thresholds hold a rate that is none");
    made.thresholds[far] = threshold.at("value", Json::number).value;
  }
  const auto golden = json.members.find("golden");
  if (golden == json.members.end() || golden->second.kind == Json::null) return made;
  require(golden->second.kind == Json::object, "the contract's golden is of another type");
  require(golden->second.at("probes", Json::string).text == "edgeface-waves-1", "golden probes that are not known here: update this reader");
  made.min_cosine = golden->second.at("min_cosine", Json::number).value;
  for (const Json& row : golden->second.at("embeddings", Json::array).items)
    made.golden.push_back(floats(row, static_cast<std::size_t>(made.length), "golden.embeddings"));
  return made;
}

/** Probe image k of the rule edgeface-waves-1: size x size RGB pixels. */
inline Bytes probe_image(int k, int size) {
  const auto triangle = [](int t) { return 255 - std::abs(255 - t % 511); };
  Bytes pixels;
  for (int y = 0; y < size; y++)
    for (int x = 0; x < size; x++)
      for (int c = 0; c < 3; c++) {
        const int u = x * (k + 2) * 256 / size + 64 * c, v = y * (k + 1) * 256 / size + 32 * k;
        pixels.push_back(static_cast<std::uint8_t>((triangle(u) + triangle(v)) / 2));
      }
  return pixels;
}

/** One aligned face, size x size RGB bytes, as the bytes of the array that the graph takes: uint8, or float32. */
inline Bytes as_input(const Bytes& face, const Contract& contract) {
  const std::size_t area = static_cast<std::size_t>(contract.size) * contract.size;
  require(face.size() == 3 * area, "a face is " + std::to_string(contract.size) + " x " + std::to_string(contract.size) + " RGB pixels");
  Bytes made(3 * area * (contract.is_float ? sizeof(float) : 1));
  for (std::size_t pixel = 0; pixel < area; pixel++)
    for (int c = 0; c < 3; c++) {
      const std::uint8_t value = face[3 * pixel + (contract.is_bgr ? 2 - c : c)];
      const std::size_t at = contract.is_planar ? c * area + pixel : 3 * pixel + c;
      const float scaled = (static_cast<float>(value) - contract.mean[c]) / contract.std[c];
      if (contract.is_float) std::memcpy(&made[at * sizeof(float)], &scaled, sizeof(float));
      else made[at] = value;
    }
  return made;
}

/** Scaled to length 1, as embeddings are compared. */
inline std::vector<float> unit(std::vector<float> values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  if (squares > 0)
    for (float& value : values) value = static_cast<float>(value / std::sqrt(squares));
  return values;
}

inline double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); i++) sum += double{a[i]} * b[i];
  return sum;
}

/** An engine: the bytes of one input to the floats of one embedding. */
using Engine = std::function<std::vector<float>(const Bytes&)>;

/** The embedding of one aligned face, of length 1. */
inline std::vector<float> embed(const Engine& engine, const Bytes& face, const Contract& contract) {
  std::vector<float> found = engine(as_input(face, contract));
  require(found.size() == static_cast<std::size_t>(contract.length), "the graph gives another length than its contract says");
  for (const float value : found) require(std::isfinite(value), "the graph gave an embedding that is not finite");
  return unit(std::move(found));
}

/** The least cosine between the file's golden embeddings and the engine's; below contract.min_cosine it computes something else. */
inline double golden_cosine(const Engine& engine, const Contract& contract) {
  require(!contract.golden.empty(), "the file has no golden vectors");
  double least = 1;
  for (std::size_t k = 0; k < contract.golden.size(); k++) {
    const auto found = embed(engine, probe_image(static_cast<int>(k), contract.size), contract);
    least = std::min(least, cosine(unit(contract.golden[k]), found));
  }
  return least;
}

}  // namespace edgeface
