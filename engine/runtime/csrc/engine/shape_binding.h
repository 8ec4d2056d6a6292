// A shape binding: everything that stays the same between calls with the same input shapes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensorrt/abi.h"

namespace engine_runtime {

// The sizes of all inputs in a row, then the bytes of the host inputs as whole words.  Ranks are
// fixed by the engine, so that different inputs give different signatures.
using Signature = c10::SmallVector<int64_t, 32>;

struct OutputBinding {
  std::vector<int64_t> shape;
  c10::ScalarType dtype;
  bool known = true;       // the shape does not depend on values that the engine computes
  bool allocated = false;  // TensorRT asks for its memory while it runs
  int64_t elements = 0;
};

struct ShapeBinding {
  Signature signature;
  int profile = 0;
  std::vector<abi::Dims> shapes;
  // Position of each host input, and memory that holds its values.
  std::vector<std::pair<int, at::Tensor>> host_inputs;
  std::vector<OutputBinding> outputs;
  bool plain = true;     // every output is a fresh tensor on the GPU whose shape is known
  bool computes = true;  // some output has, or may have, an element
};

using ShapeBindingPointer = std::shared_ptr<ShapeBinding const>;

// Plans by signature; the oldest go when there are too many.
class ShapeBindingCache {
 public:
  ShapeBindingPointer find(Signature const& signature) const;
  void add(ShapeBindingPointer bound);
  void clear();
  size_t size() const;

 private:
  struct Hash {
    size_t operator()(Signature const& signature) const;
  };

  mutable std::mutex mutex_;
  std::unordered_map<Signature, ShapeBindingPointer, Hash> bindings_;
  std::vector<ShapeBindingPointer> order_;
  size_t oldest_ = 0;
};

}  // namespace engine_runtime
