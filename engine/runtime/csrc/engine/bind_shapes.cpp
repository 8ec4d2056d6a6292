// Making a shape binding: what TensorRT says about inputs of certain shapes and values.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "tensorrt/failure.h"
#include "engine/given.h"
#include "engine/loaded_engine.h"
#include "tensorrt/log.h"

namespace engine_runtime {
namespace {

constexpr int kMostNames = 16;

// Integer values of a host input, for the check against its bounds; none for other dtypes.
Sizes integers(at::Tensor const& memory, c10::ScalarType dtype, int64_t count) {
  Sizes values;
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == at::kLong) {
      values.push_back(static_cast<int64_t const*>(memory.const_data_ptr())[i]);
    } else if (dtype == at::kInt) {
      values.push_back(static_cast<int32_t const*>(memory.const_data_ptr())[i]);
    }
  }
  return values;
}

}  // namespace

ShapeBindingPointer LoadedEngine::make_binding(Given const& given, PooledContext& pooled) {
  auto bound = std::make_shared<ShapeBinding>();
  bound->signature = given.signature;
  std::vector<Sizes> shapes;
  std::vector<Sizes> values(inputs_.size());
  int64_t const* word = bound->signature.data();
  for (Binding const& binding : inputs_) {
    shapes.emplace_back(word, word + binding.shape.size());
    abi::Dims dims{static_cast<int32_t>(binding.shape.size()), {}};
    std::copy(word, word + dims.rank, dims.sizes);
    bound->shapes.push_back(dims);
    word += dims.rank;
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].host) {
      continue;
    }
    int64_t count = 1;
    for (int64_t size : shapes[i]) {
      count *= size;
    }
    auto const bytes = count * static_cast<int64_t>(c10::elementSize(inputs_[i].dtype));
    auto const words = (bytes + 7) / 8;
    // One word at least, so that there is an address.
    at::Tensor memory = at::empty({std::max<int64_t>(words, 1) * 8}, at::TensorOptions().dtype(at::kByte));
    std::memset(memory.mutable_data_ptr(), 0, static_cast<size_t>(memory.numel()));
    if (bytes != 0) {
      std::memcpy(memory.mutable_data_ptr(), word, static_cast<size_t>(bytes));
    }
    word += words;
    values[i] = integers(memory, inputs_[i].dtype, count);
    bound->host_inputs.emplace_back(static_cast<int>(i), std::move(memory));
  }
  bound->profile = choose_profile(inputs_, shapes, values);
  {
    Listener listener;
    try {
      bind(pooled, bound);
    } catch (Failure const& failure) {
      throw Failure(FailureKind::Execution, refusal(*bound) + " (" + failure.text() + ")", listener.errors());
    }
    char const* names[kMostNames] = {};
    int32_t const unset = abi::call<int32_t, int32_t, char const**>(
        pooled.context, library_.layout->context.infer_shapes, kMostNames, names);
    if (unset != 0) {
      std::vector<std::string> errors = listener.errors();
      for (int32_t i = 0; i < std::min(unset, kMostNames); ++i) {
        errors.insert(errors.begin(), std::string(names[i] == nullptr ? "an input" : names[i]) + " not set");
      }
      throw Failure(FailureKind::Execution, refusal(*bound), std::move(errors));
    }
  }
  bind_outputs(*bound, pooled);
  return bound;
}

void LoadedEngine::bind_outputs(ShapeBinding& bound, PooledContext& pooled) const {
  bound.computes = outputs_.empty();
  for (size_t i = 0; i < outputs_.size(); ++i) {
    Binding const& binding = outputs_[i];
    auto const dims = abi::call<abi::Dims, char const*>(
        pooled.context, library_.layout->context.tensor_shape, binding.name.c_str());
    if (dims.rank < 0 || dims.rank > 8) {
      throw Failure(FailureKind::Execution, refusal(bound) + ": it gives no shape for output '" + binding.name + "'");
    }
    OutputBinding output;
    output.dtype = binding.dtype;
    output.shape.assign(dims.sizes, dims.sizes + dims.rank);
    output.known = std::all_of(output.shape.begin(), output.shape.end(), [](int64_t size) { return size >= 0; });
    output.elements = 1;
    for (int64_t size : output.shape) {
      output.elements *= size;
    }
    bool const device = !binding.host && aliases_[i] < 0;
    output.allocated = device && (allocate_outputs_ || !output.known);
    bound.plain = bound.plain && device && !output.allocated;
    bound.computes = bound.computes || !output.known || output.elements != 0;
    bound.outputs.push_back(std::move(output));
  }
  set_allocators(pooled, bound);
}

std::string LoadedEngine::refusal(ShapeBinding const& bound) const {
  std::string text;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    Sizes const shape(bound.shapes[i].sizes, bound.shapes[i].sizes + bound.shapes[i].rank);
    text += (i == 0 ? "" : ", ") + inputs_[i].name + "=" + bracketed(shape);
  }
  return called() + " does not take the shapes " + text;
}

}  // namespace engine_runtime
