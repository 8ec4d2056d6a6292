#include "engine/engine.h"

#include <c10/util/SmallVector.h>

#include "engine/device.h"
#include "tensorrt/failure.h"

namespace engine_runtime {

std::vector<at::Tensor> Engine::run(std::vector<at::Tensor> const& inputs) {
  int device = -1;
  c10::SmallVector<Input, 8> given;
  for (at::Tensor const& tensor : inputs) {
    if (!tensor.defined()) {
      throw Failure(FailureKind::Input, "an input of " + describe() + " is undefined");
    }
    Input input;
    input.tensor = &tensor;
    given.push_back(input);
    if (device < 0 && tensor.is_cuda()) {
      device = tensor.device().index();
    }
  }
  if (device < 0) {
    device::require_gpu();
    device = device::current();
  }
  Results results = on_device(device).run(given.data(), given.size());
  return {std::make_move_iterator(results.begin()), std::make_move_iterator(results.end())};
}

LoadedEngine& Engine::on_device(int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<LoadedEngine>& engine = loaded_[device];
  if (engine == nullptr) {
    std::string const& plan = record_.plan();
    engine = std::make_unique<LoadedEngine>(
        plan.data(),
        plan.size(),
        device,
        record_.inputs(),
        record_.outputs(),
        record_.field(kName),
        record_.allocates_outputs(),
        Options());
  }
  return *engine;
}

std::string Engine::describe() const {
  std::string const& name = record_.field(kName);
  return "Engine '" + name + "' (" + record_.field(kInputs) + ") -> (" + record_.field(kOutputs) + "), " +
      std::to_string(record_.plan().size()) + " bytes";
}

}  // namespace engine_runtime
