// The engine record: an engine and what has to be known to run it, as a list of fields.
//
// The same list as engine/runtime/records/record.py: Torch-TensorRT's layouts "8", "9" and "10".
#pragma once

#include <string>
#include <vector>

namespace engine_runtime {

enum Field : size_t {
  kAbi,
  kName,
  kDevice,
  kEngine,
  kInputs,
  kOutputs,
  kHardwareCompatible,
  kMetadata,
  kPlatform,
  kOutputAllocator,
  kResources,
  kMultiDevice,
  kAliases,
  kFields,
};

// The layout that is written by default; `SERIALIZATION_LEN` fields.
constexpr char kAbiVersion[] = "10";
constexpr char kDelimiter = '%';

class Record {
 public:
  // Checks the fields, the engine among them being the plan's bytes.
  //
  // Throws Failure (Record): a field is missing, there are too many, or one is damaged; the
  // message names it.  A pickle in the metadata is never opened.
  explicit Record(std::vector<std::string> fields);

  // As the constructor, with the engine in base64.
  static Record from_state(std::vector<std::string> state);

  // The fields with the engine in base64.
  std::vector<std::string> state() const;

  std::string const& field(Field which) const { return fields_[which]; }
  std::string const& plan() const { return fields_[kEngine]; }
  std::vector<std::string> inputs() const;
  std::vector<std::string> outputs() const;
  bool allocates_outputs() const { return fields_[kOutputAllocator] == "1"; }

 private:
  void check() const;

  std::vector<std::string> fields_;
};

}  // namespace engine_runtime
