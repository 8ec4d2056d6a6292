// TensorRT's interfaces as they are laid out in memory.
//
// A public object of TensorRT is a pointer to its own virtual table, followed by a pointer to an
// implementation whose virtual functions do the work.  A `Layout` says at which place of the
// implementation's table each function stands; `call` calls it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine_runtime::abi {

enum class DataType : int32_t {
  Float = 0,
  Half = 1,
  Int8 = 2,
  Int32 = 3,
  Bool = 4,
  UInt8 = 5,
  FP8 = 6,
  BF16 = 7,
  Int64 = 8,
  Int4 = 9,
  FP4 = 10,
  E8M0 = 11,
};
enum class TensorLocation : int32_t { Device = 0, Host = 1 };
enum class TensorMode : int32_t { None = 0, Input = 1, Output = 2 };
enum class ProfileSelector : int32_t { Min = 0, Opt = 1, Max = 2 };
enum class Severity : int32_t { InternalError = 0, Error = 1, Warning = 2, Info = 3, Verbose = 4 };
enum class MemoryStrategy : int32_t { Static = 0, OnProfileChange = 1, UserManaged = 2 };

struct Dims {
  int32_t rank;
  int64_t sizes[8];
};

// What the two interfaces below answer when TensorRT asks which version of them it got.
struct InterfaceInfo {
  char const* kind;
  int32_t major;
  int32_t minor;
};

// Implemented by us, called by TensorRT: the order of the virtual functions is the interface.
class Logger {
 public:
  virtual void log(Severity severity, char const* text) noexcept = 0;
  virtual ~Logger() = default;
};

// From TensorRT 11 on.
class VersionedLogger {
 public:
  virtual int32_t language() const noexcept { return 0; }
  virtual InterfaceInfo info() const noexcept { return {"ILogger", 1, 0}; }
  virtual ~VersionedLogger() = default;
  virtual void log(Severity severity, char const* text) noexcept = 0;
};

class OutputAllocator {
 public:
  virtual int32_t language() const noexcept { return 0; }
  virtual InterfaceInfo info() const noexcept { return {"IOutputAllocator", 1, 0}; }
  virtual ~OutputAllocator() = default;
  virtual void* reallocate(char const*, void*, uint64_t, uint64_t) noexcept { return nullptr; }
  virtual void* reallocate_async(char const* name, void* current, uint64_t size, uint64_t alignment, void* stream) = 0;
  virtual void notify_shape(char const* name, Dims const& dims) noexcept = 0;
};

// TensorRT-RTX's, without the deprecated function.
class BriefOutputAllocator {
 public:
  virtual int32_t language() const noexcept { return 0; }
  virtual InterfaceInfo info() const noexcept { return {"IOutputAllocator", 1, 0}; }
  virtual ~BriefOutputAllocator() = default;
  virtual void* reallocate_async(char const* name, void* current, uint64_t size, uint64_t alignment, void* stream) = 0;
  virtual void notify_shape(char const* name, Dims const& dims) noexcept = 0;
};

// Places of functions in the tables of the implementations, counted from the first function that
// the interface declares; -1 where the library has no such function.
struct EngineSlots {
  int create_context;
  int profiles;
  int tensor_shape;
  int tensor_dtype;
  int tensor_location;
  int tensor_mode;
  int profile_shape;
  int tensor_count;
  int tensor_name;
  int streamable_weights;
  int set_streaming_budget;
  int streaming_budget;
  int memory_size;
  int profile_values;
  int create_context_with_config;
  int create_config;
  int aliased_input;
};

struct ContextSlots {
  int set_profile;
  int set_input_shape;
  int tensor_shape;
  int set_address;
  int infer_shapes;
  int set_output_allocator;
  int enqueue;
  int set_memory;
};

struct ConfigSlots {
  int set_memory_strategy;
  int create_cache;
  int set_cache;
  int set_specialization;
  int set_graph_strategy;
};

struct CacheSlots {
  int serialize;
  int deserialize;
};

struct Layout {
  char const* name;
  bool rtx;
  // The versions, as `getInferLibVersion` gives them, that have this layout; both inclusive.
  int32_t first;
  int32_t last;
  bool versioned_logger;
  // Whether kernels that are compiled for the shapes of a call compute what they should (engine/tensorrt/__init__.py).
  bool specializes;
  bool brief_allocator;
  int runtime_deserialize;
  EngineSlots engine;
  ContextSlots context;
  ConfigSlots config;
  CacheSlots cache;
};

// The layout of a library; null where it is not known.
Layout const* find_layout(bool rtx, int32_t version);

// Every implementation starts with its destructor (two entries).
constexpr int kFirst = 2;

template <typename Result, typename... Arguments>
inline Result call(void* object, int slot, Arguments... arguments) {
  void* implementation = static_cast<void**>(object)[1];
  void** table = *static_cast<void***>(implementation);
  using Function = Result (*)(void*, Arguments...);
  return reinterpret_cast<Function>(table[slot + kFirst])(implementation, arguments...);
}

// Destroys an object of TensorRT; the second entry of a table is the deleting destructor.
inline void destroy(void* object) {
  if (object != nullptr) {
    void** table = *static_cast<void***>(object);
    reinterpret_cast<void (*)(void*)>(table[1])(object);
  }
}

}  // namespace engine_runtime::abi
