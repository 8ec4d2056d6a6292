#include "engine/record.h"

#include <algorithm>
#include <set>

#include "tensorrt/digest.h"
#include "tensorrt/failure.h"

namespace engine_runtime {
namespace {

constexpr char const* kFieldNames[kFields] = {
    "ABI",
    "name",
    "device",
    "engine",
    "input binding names",
    "output binding names",
    "hardware compatible",
    "metadata",
    "target platform",
    "requires output allocator",
    "resource allocation",
    "native multi-device",
    "aliased inputs and outputs",
};

std::string where(size_t index) {
  return "field " + std::to_string(index) + (index < kFields ? std::string(" (") + kFieldNames[index] + ")" : "");
}

[[noreturn]] void damaged(std::string const& text) { throw Failure(FailureKind::Record, text); }

size_t length_of(std::string const& abi) {
  if (abi == "8") {
    return 11;
  }
  if (abi == "9") {
    return 12;
  }
  if (abi == "10") {
    return 13;
  }
  damaged(where(kAbi) + ": '" + abi.substr(0, 40) + "' is not a layout that can be read (8, 9, 10)");
}

std::vector<std::string> split(std::string const& text, char delimiter) {
  std::vector<std::string> parts;
  if (text.empty()) {
    return parts;
  }
  size_t start = 0;
  for (;;) {
    size_t const end = text.find(delimiter, start);
    parts.push_back(text.substr(start, end == std::string::npos ? end : end - start));
    if (end == std::string::npos) {
      return parts;
    }
    start = end + 1;
  }
}

void check_flag(std::vector<std::string> const& fields, size_t index) {
  if (index < fields.size() && fields[index] != "0" && fields[index] != "1") {
    damaged(where(index) + ": '" + fields[index].substr(0, 40) + "' is neither 0 nor 1");
  }
}

void check_names(std::vector<std::string> const& names, size_t index) {
  std::set<std::string> const distinct(names.begin(), names.end());
  if (distinct.size() != names.size() || distinct.count("") != 0) {
    damaged(where(index) + " holds a name twice, or an empty one");
  }
}

bool is_number(std::string const& text) {
  return !text.empty() && text.size() < 10 &&
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The string value of a key of the outermost object; empty where there is none.
std::string json_string(std::string const& json, std::string const& key) {
  std::string const wanted = '"' + key + '"';
  int depth = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    char const c = json[i];
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c != '"') {
      continue;
    }
    size_t end = i + 1;
    while (end < json.size() && json[end] != '"') {
      end += json[end] == '\\' ? 2 : 1;
    }
    if (depth == 1 && json.compare(i, end + 1 - i, wanted) == 0) {
      size_t const value = json.find_first_not_of(" \t\r\n:", end + 1);
      size_t const close = value == std::string::npos ? value : json.find('"', value + 1);
      if (close != std::string::npos && json[value] == '"') {
        return json.substr(value + 1, close - value - 1);
      }
    }
    i = end;
  }
  return {};
}

}  // namespace

Record::Record(std::vector<std::string> fields) : fields_(std::move(fields)) {
  if (fields_.empty()) {
    damaged(where(kAbi) + " is missing");
  }
  size_t const expected = length_of(fields_[kAbi]);
  if (fields_.size() != expected) {
    std::string what;
    for (size_t index = fields_.size(); index < expected; ++index) {
      what += (what.empty() ? "" : ", ") + where(index);
    }
    what = what.empty() ? std::to_string(fields_.size() - expected) + " more than that" : what + " missing";
    damaged(
        "an engine record of layout " + fields_[kAbi] + " has " + std::to_string(expected) + " fields; this one: " +
        what);
  }
  check();
}

Record Record::from_state(std::vector<std::string> state) {
  if (state.size() > kEngine) {
    std::string plan;
    if (!decode_base64(state[kEngine], plan)) {
      damaged(where(kEngine) + " is not base64");
    }
    state[kEngine] = std::move(plan);
  }
  return Record(std::move(state));
}

std::vector<std::string> Record::state() const {
  std::vector<std::string> fields;
  for (size_t index = 0; index < fields_.size(); ++index) {
    fields.push_back(index == kEngine ? encode_base64(fields_[index]) : fields_[index]);
  }
  return fields;
}

std::vector<std::string> Record::inputs() const { return split(fields_[kInputs], kDelimiter); }

std::vector<std::string> Record::outputs() const { return split(fields_[kOutputs], kDelimiter); }

void Record::check() const {
  std::vector<std::string> const device = split(fields_[kDevice], kDelimiter);
  if (device.size() != 5 || !std::all_of(device.begin(), device.begin() + 4, is_number)) {
    damaged(where(kDevice) + ": '" + fields_[kDevice].substr(0, 80) + "' is not id%major%minor%type%name");
  }
  if (plan().empty()) {
    damaged(where(kEngine) + " is empty: the record was written without its plan");
  }
  check_names(inputs(), kInputs);
  check_names(outputs(), kOutputs);
  if (outputs().empty()) {
    damaged(where(kOutputs) + ": an engine needs at least one output");
  }
  for (size_t index : {kHardwareCompatible, kOutputAllocator, kResources, kMultiDevice}) {
    check_flag(fields_, index);
  }
  std::string const& platform = fields_[kPlatform];
  std::set<std::string> const platforms = {
      "linux_x86_64", "linux_aarch64", "windows_x86_64", "windows_arm64", "unknown"};
  if (platforms.count(platform) == 0) {
    damaged(where(kPlatform) + ": '" + platform.substr(0, 40) + "' is not a platform");
  }
  if (fields_.size() > kAliases) {
    for (std::string const& alias : split(fields_[kAliases], kDelimiter)) {
      if (split(alias, '@').size() != 3) {
        damaged(where(kAliases) + ": '" + alias.substr(0, 80) + "' is not output@input@kind");
      }
    }
  }
  std::string metadata;
  if (!decode_base64(fields_[kMetadata], metadata)) {
    damaged(where(kMetadata) + " is not base64");
  }
  // A pickle, as Torch-TensorRT writes it, stays closed: nothing of it is needed to run.
  std::string const pickled = "\x80(])}lcdIKNSVUXGF";
  if (!metadata.empty() && metadata[0] != '{' && pickled.find(metadata[0]) == std::string::npos) {
    damaged(where(kMetadata) + " is not JSON");
  }
  if (!metadata.empty() && metadata[0] == '{') {
    std::string const expected = json_string(metadata, "sha256");
    if (!expected.empty() && expected != sha256(plan())) {
      damaged(where(kEngine) + " is damaged: its SHA-256 is not the one in the metadata");
    }
  }
}

}  // namespace engine_runtime
