// An engine on one GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "engine/binding.h"
#include "engine/context_pool.h"
#include "tensorrt/library.h"
#include "engine/options.h"
#include "engine/shape_binding.h"

namespace engine_runtime {

// A call's input: a tensor, or a number that stands for a tensor of one element.
struct Input {
  enum class Kind { Tensor, Int, Float, Bool };

  Kind kind = Kind::Tensor;
  at::Tensor const* tensor = nullptr;
  int64_t integer = 0;
  double floating = 0;
};

using Results = c10::SmallVector<at::Tensor, 4>;

// A deserialised engine.  Calls may come from any thread and run on PyTorch's current stream; they
// do not wait for the GPU.  Outputs are fresh tensors, except those that the engine aliases to an
// input.
class LoadedEngine {
 public:
  // `name` is for messages; without binding names, the engine's own order is taken.
  //
  // Throws Failure: Load where TensorRT refuses the plan or a context for it, Unavailable where this
  // machine has no GPU or library, or the binding names are not the engine's.
  LoadedEngine(
      void const* plan,
      size_t size,
      int device,
      std::vector<std::string> inputs,
      std::vector<std::string> outputs,
      std::string name,
      bool allocate_outputs,
      Options options,
      size_t contexts = 8);
  ~LoadedEngine();
  LoadedEngine(LoadedEngine const&) = delete;
  LoadedEngine& operator=(LoadedEngine const&) = delete;

  // Queues one run on the current stream.  Throws Failure: Input, Execution.
  Results run(Input const* inputs, size_t count);

  // Output shapes for inputs of given shapes, without a run; a shape found while running is null.
  std::vector<std::optional<Sizes>> output_shapes(std::vector<Sizes> const& shapes);

  // Changes how it runs from the next call on; waits for calls that are under way.
  void configure(Options options);

  std::vector<Binding> const& inputs() const { return inputs_; }
  std::vector<Binding> const& outputs() const { return outputs_; }
  int device() const { return device_; }
  // Execution contexts, without those of captured graphs.
  size_t contexts() const { return pool_->size(); }
  bool captured() const { return pool_->captured(); }
  size_t shape_bindings() const { return bindings_.size(); }
  // The contexts that CUDA graphs captured since this was asked last, and their return when a graph is gone.
  std::vector<PooledContext*> take_captured() { return pool_->take_captured(); }
  void release_captured(PooledContext* pooled) { pool_->release_captured(pooled); }
  // Whether compiled kernels are kept between processes, whether TensorRT rejected those that were, and those to keep.
  bool keeps_kernels() const { return !options_.runtime_cache_folder.empty(); }
  bool kernels_refused() const { return refused_; }
  std::string kernels() const { return pool_->kernels(); }
  // Queues what was bound last on the current stream `calls` times more and nothing else; returns
  // host nanoseconds per call.  For measurements.
  double time_enqueue(int64_t calls);

 private:
  struct Given;  // the inputs of one call, ready to be bound

  Results run_here(Input const* inputs, size_t count);
  bool read(Input const* inputs, size_t count, Given& given) const;
  void normalise(Input const* inputs, size_t count, Given& given) const;
  at::Tensor from_number(Binding const& binding, Input const& input) const;
  at::Tensor on_device(Binding const& binding, at::Tensor tensor, bool written) const;
  void check_count(size_t count) const;

  ShapeBindingPointer make_binding(Given const& given, PooledContext& pooled);
  void bind_outputs(ShapeBinding& bound, PooledContext& pooled) const;
  std::string refusal(ShapeBinding const& bound) const;
  void bind(PooledContext& pooled, ShapeBindingPointer const& bound);
  // Puts a context of its own in the place of one that is set up for another shape, if there may be one.
  void vary(PooledContext*& pooled, c10::Stream const& stream, void* handle);
  void set_allocators(PooledContext& pooled, ShapeBinding const& bound) const;
  void set_workspace(PooledContext& pooled);
  void allocate(ShapeBinding const& bound, Given const& given, PooledContext const& pooled, Results& results) const;
  Results empty_outputs(ShapeBinding const& bound, Given const& given) const;
  at::Tensor fresh(OutputBinding const& output) const;
  void collect(ShapeBinding const& bound, PooledContext& pooled, Results& results) const;

  void load(void const* plan, size_t size, std::vector<std::string> names[2]);
  void apply_options();
  std::unique_ptr<PooledContext> make_context();
  std::string called() const;

  Library const& library_;
  int device_;
  std::string name_;
  bool allocate_outputs_;
  Options options_;
  void* engine_ = nullptr;  // ICudaEngine
  // What the first context compiled, so that further ones take a tenth of the time to make.
  std::string kernels_;
  bool compiled_ = false;
  bool refused_ = false;
  std::vector<Binding> inputs_;
  std::vector<Binding> outputs_;
  std::vector<int> aliases_;  // per output: the input whose memory it is, or -1
  std::vector<bool> written_;  // per input: the engine writes to it
  int profiles_ = 1;
  bool has_host_inputs_ = false;
  // Stands for the memory of tensors without elements, as TensorRT takes no null address.
  at::Tensor scratch_;
  void* scratch_address_ = nullptr;
  int64_t memory_size_ = 0;
  ShapeBindingCache bindings_;
  std::unique_ptr<ContextPool> pool_;
  std::shared_mutex configuring_;  // shared by calls, held alone to change how they run
};

}  // namespace engine_runtime
