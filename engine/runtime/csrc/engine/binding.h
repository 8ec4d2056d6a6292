// The inputs and outputs of a loaded engine, and the choice of a profile for input shapes.
#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tensorrt/abi.h"

namespace engine_runtime {

using Sizes = std::vector<int64_t>;
// Smallest, optimal and largest shape (or values) of one profile.
using Bounds = std::array<Sizes, 3>;

struct Binding {
  std::string name;
  c10::ScalarType dtype;
  Sizes shape;  // -1 for dims that are known only at run time
  bool host = false;
  bool dynamic = false;
  std::vector<Bounds> shapes;  // of an input, per profile
  std::vector<Bounds> values;  // of a host input, per profile; empty sizes where not set
  std::string aliased_input;   // of an output that is written into an input: that input's name
};

// The PyTorch dtype of a TensorRT data type.  Throws Failure (Unavailable) where there is none.
c10::ScalarType scalar_type(abi::DataType dtype, std::string const& binding);

// "torch.float32", as Python prints it.
std::string dtype_name(c10::ScalarType dtype);

// Reads the bindings of an ICudaEngine in the order of `names`.
std::vector<Binding> read_bindings(
    void* engine, abi::EngineSlots const& slots, std::vector<std::string> const& names, bool input);

// The input or output names of an ICudaEngine, in its own order.
std::vector<std::string> binding_names(void* engine, abi::EngineSlots const& slots, abi::TensorMode mode);

// The profile to run inputs of given shapes with: of those that allow them the nearest one.
//
// `values` holds a host input's values, and nothing for the others.  Throws Failure (Input) that
// names the binding, the dim and the allowed range where no profile allows them.
int choose_profile(
    std::vector<Binding> const& inputs, std::vector<Sizes> const& shapes, std::vector<Sizes> const& values);

}  // namespace engine_runtime
