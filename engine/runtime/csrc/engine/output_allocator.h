// Memory for outputs whose size TensorRT finds out while it runs.
#pragma once

#include <ATen/core/Tensor.h>

#include "tensorrt/abi.h"

namespace engine_runtime {

// Serves one output of one execution context; memory comes from PyTorch's allocator.
class TensorAllocator {
 public:
  explicit TensorAllocator(int device) : device_(device), full_(*this), brief_(*this) {}
  TensorAllocator(TensorAllocator const&) = delete;
  TensorAllocator& operator=(TensorAllocator const&) = delete;

  // What TensorRT takes as its IOutputAllocator.
  void* interface(bool brief);

  // The output of the run that was just queued; the allocator forgets it.
  at::Tensor take(c10::ScalarType dtype);

 private:
  template <typename Interface>
  class Face final : public Interface {
   public:
    explicit Face(TensorAllocator& owner) : owner_(owner) {}

    void* reallocate_async(char const*, void*, uint64_t size, uint64_t, void*) override {
      return owner_.reserve(size);
    }

    void notify_shape(char const*, abi::Dims const& dims) noexcept override { owner_.dims_ = dims; }

   private:
    TensorAllocator& owner_;
  };

  void* reserve(uint64_t size) noexcept;

  int device_;
  at::Tensor memory_;
  abi::Dims dims_{-1, {}};
  Face<abi::OutputAllocator> full_;
  Face<abi::BriefOutputAllocator> brief_;
};

}  // namespace engine_runtime
