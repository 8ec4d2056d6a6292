// The class `tensorrt.Engine` and the ops `tensorrt::*`, under the names that Torch-TensorRT gave them.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <string>
#include <unordered_set>

#include "engine/engine.h"
#include "tensorrt/failure.h"
#include "tensorrt/library.h"

#define ENGINE_RUNTIME_API __attribute__((visibility("default")))

namespace engine_runtime {
namespace {

using Handle = c10::intrusive_ptr<Engine>;

std::vector<at::Tensor> execute_engine(std::vector<at::Tensor> inputs, Handle const& engine) {
  std::vector<at::Tensor> outputs = engine->run(inputs);
  // The schema promises fresh outputs; an engine may update an input in place and return it.
  std::unordered_set<c10::StorageImpl*> given;
  for (at::Tensor const& input : inputs) {
    given.insert(input.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
  }
  for (at::Tensor& output : outputs) {
    if (given.count(output.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()) != 0) {
      output = output.clone();
    }
  }
  return outputs;
}

bool is_same(Handle const& self, c10::IValue const& other) {
  return other.isCustomClass() && other.toObjectRef().getSlot(0).toCapsule().get() == self.get();
}

constexpr char const* kThisPlatform =
#if defined(__aarch64__)
    "linux_aarch64";
#else
    "linux_x86_64";
#endif

void define_class() {
  static auto registration =
      torch::class_<Engine>("tensorrt", "Engine")
          .def(torch::init([](std::vector<std::string> fields) {
            return c10::make_intrusive<Engine>(Record(std::move(fields)));
          }))
          .def("__str__", [](Handle const& self) { return self->describe(); })
          .def("__repr__", [](Handle const& self) { return self->describe(); })
          // Identity: what holds engines, such as a compiler's table of constants, compares them.
          .def("__eq__", [](Handle const& self, c10::IValue const& other) { return is_same(self, other); })
          .def("__ne__", [](Handle const& self, c10::IValue const& other) { return !is_same(self, other); })
          .def("fields", [](Handle const& self) { return self->record().state(); })
          .def("get_serialized_metadata", [](Handle const& self) { return self->record().field(kMetadata); })
          .def("name", [](Handle const& self) { return self->record().field(kName); })
          .def("input_binding_names", [](Handle const& self) { return self->record().inputs(); })
          .def("output_binding_names", [](Handle const& self) { return self->record().outputs(); })
          .def("load", [](Handle const& self, int64_t device) { self->on_device(static_cast<int>(device)); })
          // What the tracers of PyTorch ask for: the object itself goes to the fake kernel.
          .def("tracing_mode", [](Handle const&) { return std::string("real"); })
          .def(
              "__obj_flatten__",
              [](Handle const& self) {
                return std::make_tuple(std::make_tuple(std::string("fields"), self->record().state()));
              })
          .def_pickle(
              [](Handle const& self) { return self->record().state(); },
              [](std::vector<std::string> state) {
                return c10::make_intrusive<Engine>(Record::from_state(std::move(state)));
              });
}

void define_operators() {
  // Kept for the life of the process; a fragment leaves the namespace open for others.
  static auto* library = new torch::Library(torch::Library::FRAGMENT, "tensorrt", std::nullopt, __FILE__, __LINE__);
  torch::Library& m = *library;
  m.def("execute_engine(Tensor[] input_tensors, __torch__.torch.classes.tensorrt.Engine engine) -> Tensor[]");
  m.impl("execute_engine", torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(execute_engine)));
  m.def("SERIALIZED_ENGINE_BINDING_DELIM", []() -> std::string { return std::string(1, kDelimiter); });
  m.def("SERIALIZED_RT_DEVICE_DELIM", []() -> std::string { return std::string(1, kDelimiter); });
  m.def("ABI_VERSION", []() -> std::string { return kAbiVersion; });
  m.def("SERIALIZATION_LEN", []() -> int64_t { return kFields; });
  m.def("ABI_TARGET_IDX", []() -> int64_t { return kAbi; });
  m.def("NAME_IDX", []() -> int64_t { return kName; });
  m.def("DEVICE_IDX", []() -> int64_t { return kDevice; });
  m.def("ENGINE_IDX", []() -> int64_t { return kEngine; });
  m.def("INPUT_BINDING_NAMES_IDX", []() -> int64_t { return kInputs; });
  m.def("OUTPUT_BINDING_NAMES_IDX", []() -> int64_t { return kOutputs; });
  m.def("HW_COMPATIBLE_IDX", []() -> int64_t { return kHardwareCompatible; });
  m.def("SERIALIZED_METADATA_IDX", []() -> int64_t { return kMetadata; });
  m.def("TARGET_PLATFORM_IDX", []() -> int64_t { return Field::kPlatform; });
  m.def("REQUIRES_OUTPUT_ALLOCATOR_IDX", []() -> int64_t { return kOutputAllocator; });
  m.def("RESOURCE_ALLOCATION_STRATEGY_IDX", []() -> int64_t { return kResources; });
  m.def("REQUIRES_NATIVE_MULTIDEVICE_IDX", []() -> int64_t { return kMultiDevice; });
  m.def("ALIASED_IO_IDX", []() -> int64_t { return kAliases; });
  m.def("NATIVE_TRT_COLLECTIVES_AVAIL", []() -> bool { return false; });
  m.def("_platform_linux_x86_64", []() -> std::string { return "linux_x86_64"; });
  m.def("_platform_linux_aarch64", []() -> std::string { return "linux_aarch64"; });
  m.def("_platform_win_x86_64", []() -> std::string { return "windows_x86_64"; });
  m.def("_platform_win_arm64", []() -> std::string { return "windows_arm64"; });
  m.def("_platform_unknown", []() -> std::string { return "unknown"; });
  m.def("get_current_platform", []() -> std::string { return kThisPlatform; });
}

// Who registered the class and the op.
std::string& registration() {
  static auto* text = new std::string;
  return *text;
}

// Another runtime that came first keeps its names: nothing is registered twice.
bool register_all() {
  bool const has_class = torch::getCustomClass("__torch__.torch.classes.tensorrt.Engine") != nullptr;
  bool const has_op = c10::Dispatcher::singleton().findSchema({"tensorrt::execute_engine", ""}).has_value();
  if (has_class) {
    registration() = "the class tensorrt.Engine was already registered, by another library";
  } else if (has_op) {
    registration() = "the op tensorrt::execute_engine was already registered, by another library or from Python";
  } else {
    define_class();
    define_operators();
  }
  return true;
}

bool const registered = register_all();

}  // namespace
}  // namespace engine_runtime

// For the programs that load the library with dlopen, and for Python.
extern "C" {

// Empty where this library registered the class and the op; else why it did not.
ENGINE_RUNTIME_API char const* engine_runtime_registration() { return engine_runtime::registration().c_str(); }

// Opens the TensorRT library at a path, for the whole process.  Returns null, or a text that says
// why it cannot be used; the text is valid until the next call.
ENGINE_RUNTIME_API char const* engine_runtime_open(char const* path) {
  static thread_local std::string problem;
  try {
    engine_runtime::open_library(path);
    return nullptr;
  } catch (std::exception const& error) {
    problem = error.what();
    return problem.c_str();
  }
}

}  // extern "C"
