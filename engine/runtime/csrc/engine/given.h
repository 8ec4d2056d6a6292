// The inputs of one call, ready to be bound.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <vector>

#include "engine/loaded_engine.h"

namespace engine_runtime {

struct LoadedEngine::Given {
  Signature signature;
  // Per input; null for one on the host, whose values the shape binding holds.
  c10::SmallVector<void const*, 8> addresses;
  // What the addresses are of.
  Input const* inputs = nullptr;
  // Where inputs had to be copied: the copies, and inputs that refer to them.
  std::vector<at::Tensor> owned;
  std::vector<Input> normal;
};

}  // namespace engine_runtime
