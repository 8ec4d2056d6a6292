#include "engine/binding.h"

#include <algorithm>
#include <cmath>

#include "tensorrt/failure.h"

namespace engine_runtime {
namespace {

constexpr int kMaxTensors = 4096;

Sizes sizes_of(abi::Dims const& dims, std::string const& name) {
  if (dims.rank < 0 || dims.rank > 8) {
    throw Failure(FailureKind::Load, "TensorRT gives no shape for tensor '" + name + "'");
  }
  return {dims.sizes, dims.sizes + dims.rank};
}

std::string allowed(int64_t low, int64_t high) {
  std::string text = "the engine takes " + std::to_string(low);
  return low == high ? text : text + " to " + std::to_string(high);
}

// What keeps a profile from taking the inputs; empty where nothing does.
std::string problem(
    std::vector<Binding> const& inputs,
    std::vector<Sizes> const& shapes,
    std::vector<Sizes> const& values,
    size_t profile) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    Binding const& binding = inputs[i];
    Sizes const& shape = shapes[i];
    std::string const name = "input '" + binding.name + "'";
    if (shape.size() != binding.shape.size()) {
      return name + " has shape " + bracketed(shape) + ", of rank " + std::to_string(shape.size()) +
          ": the engine takes rank " + std::to_string(binding.shape.size()) + ", " + bracketed(binding.shape);
    }
    Bounds const& bounds = binding.shapes[profile];
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] < bounds[0][axis] || shape[axis] > bounds[2][axis]) {
        return name + " has size " + std::to_string(shape[axis]) + " in dim " + std::to_string(axis) + ": " +
            allowed(bounds[0][axis], bounds[2][axis]);
      }
    }
    Bounds const& limits = binding.values[profile];
    for (size_t k = 0; k < std::min(values[i].size(), limits[0].size()); ++k) {
      if (values[i][k] < limits[0][k] || values[i][k] > limits[2][k]) {
        return name + " has the value " + std::to_string(values[i][k]) + " at index " + std::to_string(k) + ": " +
            allowed(limits[0][k], limits[2][k]);
      }
    }
  }
  return {};
}

// The logarithms of all sizes differ by this from the profile's optimal ones.
double distance(std::vector<Binding> const& inputs, std::vector<Sizes> const& shapes, size_t profile) {
  double total = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t axis = 0; axis < shapes[i].size(); ++axis) {
      double best = static_cast<double>(inputs[i].shapes[profile][1][axis]);
      total += std::abs(std::log((static_cast<double>(shapes[i][axis]) + 1) / (best + 1)));
    }
  }
  return total;
}

}  // namespace

c10::ScalarType scalar_type(abi::DataType dtype, std::string const& binding) {
  switch (dtype) {
    case abi::DataType::Float: return c10::ScalarType::Float;
    case abi::DataType::Half: return c10::ScalarType::Half;
    case abi::DataType::Int8: return c10::ScalarType::Char;
    case abi::DataType::Int32: return c10::ScalarType::Int;
    case abi::DataType::Bool: return c10::ScalarType::Bool;
    case abi::DataType::UInt8: return c10::ScalarType::Byte;
    case abi::DataType::FP8: return c10::ScalarType::Float8_e4m3fn;
    case abi::DataType::BF16: return c10::ScalarType::BFloat16;
    case abi::DataType::Int64: return c10::ScalarType::Long;
    case abi::DataType::E8M0: return c10::ScalarType::Float8_e8m0fnu;
    default:
      throw Failure(
          FailureKind::Unavailable,
          "binding '" + binding + "' has TensorRT data type " + std::to_string(static_cast<int>(dtype)) +
              ", which PyTorch tensors cannot hold: cast inside the network");
  }
}

std::string dtype_name(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Float: return "torch.float32";
    case c10::ScalarType::Double: return "torch.float64";
    case c10::ScalarType::Half: return "torch.float16";
    case c10::ScalarType::BFloat16: return "torch.bfloat16";
    case c10::ScalarType::Byte: return "torch.uint8";
    case c10::ScalarType::Char: return "torch.int8";
    case c10::ScalarType::Short: return "torch.int16";
    case c10::ScalarType::Int: return "torch.int32";
    case c10::ScalarType::Long: return "torch.int64";
    case c10::ScalarType::Bool: return "torch.bool";
    case c10::ScalarType::ComplexFloat: return "torch.complex64";
    case c10::ScalarType::ComplexDouble: return "torch.complex128";
    case c10::ScalarType::Float8_e4m3fn: return "torch.float8_e4m3fn";
    case c10::ScalarType::Float8_e8m0fnu: return "torch.float8_e8m0fnu";
    default: return std::string("torch.") + c10::toString(dtype);
  }
}

std::vector<std::string> binding_names(void* engine, abi::EngineSlots const& slots, abi::TensorMode mode) {
  std::vector<std::string> names;
  int32_t const count = abi::call<int32_t>(engine, slots.tensor_count);
  if (count <= 0 || count > kMaxTensors) {
    throw Failure(
        FailureKind::Load,
        "the library says that the engine has " + std::to_string(count) +
            " inputs and outputs: the order of the library's functions is not the one that is known for its version");
  }
  for (int32_t i = 0; i < count; ++i) {
    char const* name = abi::call<char const*, int32_t>(engine, slots.tensor_name, i);
    if (name != nullptr && abi::call<abi::TensorMode, char const*>(engine, slots.tensor_mode, name) == mode) {
      names.emplace_back(name);
    }
  }
  return names;
}

std::vector<Binding> read_bindings(
    void* engine, abi::EngineSlots const& slots, std::vector<std::string> const& names, bool input) {
  std::vector<Binding> bindings;
  int32_t const profiles = std::max(1, abi::call<int32_t>(engine, slots.profiles));
  for (std::string const& name : names) {
    char const* key = name.c_str();
    Binding binding;
    binding.name = name;
    binding.dtype = scalar_type(abi::call<abi::DataType, char const*>(engine, slots.tensor_dtype, key), name);
    binding.shape = sizes_of(abi::call<abi::Dims, char const*>(engine, slots.tensor_shape, key), name);
    binding.host =
        abi::call<abi::TensorLocation, char const*>(engine, slots.tensor_location, key) == abi::TensorLocation::Host;
    binding.dynamic = std::find(binding.shape.begin(), binding.shape.end(), -1) != binding.shape.end();
    for (int32_t profile = 0; input && profile < profiles; ++profile) {
      Bounds shapes{binding.shape, binding.shape, binding.shape};
      Bounds values;
      for (int32_t which = 0; which < 3; ++which) {
        auto selector = static_cast<abi::ProfileSelector>(which);
        if (binding.dynamic) {
          shapes[which] = sizes_of(
              abi::call<abi::Dims, char const*, int32_t, abi::ProfileSelector>(
                  engine, slots.profile_shape, key, profile, selector),
              name);
        }
        int64_t const* found = !binding.host
            ? nullptr
            : abi::call<int64_t const*, char const*, int32_t, abi::ProfileSelector>(
                  engine, slots.profile_values, key, profile, selector);
        int64_t count = 1;
        for (int64_t size : shapes[2]) {
          count *= size;
        }
        if (found != nullptr && count > 0) {
          values[which].assign(found, found + count);
        }
      }
      if (values[0].size() != values[2].size()) {
        values = {};
      }
      binding.shapes.push_back(std::move(shapes));
      binding.values.push_back(std::move(values));
    }
    if (!input && slots.aliased_input >= 0) {
      char const* alias = abi::call<char const*, char const*>(engine, slots.aliased_input, key);
      binding.aliased_input = alias == nullptr ? "" : alias;
    }
    bindings.push_back(std::move(binding));
  }
  return bindings;
}

int choose_profile(
    std::vector<Binding> const& inputs, std::vector<Sizes> const& shapes, std::vector<Sizes> const& values) {
  size_t const profiles = inputs.empty() ? 1 : inputs[0].shapes.size();
  std::vector<std::string> problems;
  int best = -1;
  double nearest = 0;
  for (size_t profile = 0; profile < profiles; ++profile) {
    problems.push_back(problem(inputs, shapes, values, profile));
    if (!problems.back().empty()) {
      continue;
    }
    double away = distance(inputs, shapes, profile);
    if (best < 0 || away < nearest) {
      best = static_cast<int>(profile);
      nearest = away;
    }
  }
  if (best >= 0) {
    return best;
  }
  if (profiles == 1) {
    throw Failure(FailureKind::Input, problems[0]);
  }
  std::string text = "no optimization profile allows the inputs:";
  for (size_t profile = 0; profile < profiles; ++profile) {
    text += "\n  profile " + std::to_string(profile) + ": " + problems[profile];
  }
  throw Failure(FailureKind::Input, text);
}

}  // namespace engine_runtime
