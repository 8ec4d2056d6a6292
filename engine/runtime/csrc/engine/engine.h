// The class `tensorrt.Engine`: an engine record that runs.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/loaded_engine.h"
#include "engine/record.h"

namespace engine_runtime {

// Nothing is loaded before the first run, so that an engine can be made, saved and read on a
// machine without a GPU.  It is loaded once per device.
class Engine final : public torch::CustomClassHolder {
 public:
  explicit Engine(Record record) : record_(std::move(record)) {}

  // Queues one run on the current stream of the device that the inputs are on.  Throws Failure.
  std::vector<at::Tensor> run(std::vector<at::Tensor> const& inputs);

  // The engine on a device; loads it there if need be.
  LoadedEngine& on_device(int device);

  Record const& record() const { return record_; }
  std::string describe() const;

 private:
  Record record_;
  std::mutex mutex_;
  std::map<int, std::unique_ptr<LoadedEngine>> loaded_;
};

}  // namespace engine_runtime
