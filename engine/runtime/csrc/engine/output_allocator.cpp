#include "engine/output_allocator.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "tensorrt/failure.h"

namespace engine_runtime {

void* TensorAllocator::interface(bool brief) {
  return brief ? static_cast<void*>(static_cast<abi::BriefOutputAllocator*>(&brief_))
               : static_cast<void*>(static_cast<abi::OutputAllocator*>(&full_));
}

void* TensorAllocator::reserve(uint64_t size) noexcept {
  try {
    // PyTorch's blocks are aligned to 512 bytes, which is more than TensorRT asks for.
    memory_ = at::empty(
        {static_cast<int64_t>(std::max<uint64_t>(size, 1))},
        at::TensorOptions().dtype(at::kByte).device(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device_))));
    return memory_.mutable_data_ptr();
  } catch (...) {
    // TensorRT takes null for "no memory" and the run fails with its message.
    memory_ = at::Tensor();
    return nullptr;
  }
}

at::Tensor TensorAllocator::take(c10::ScalarType dtype) {
  abi::Dims const dims = dims_;
  at::Tensor memory = std::move(memory_);
  memory_ = at::Tensor();
  dims_.rank = -1;
  if (dims.rank < 0 || dims.rank > 8) {
    throw Failure(FailureKind::Execution, "TensorRT did not say the shape of an output that it allocates");
  }
  c10::IntArrayRef shape(dims.sizes, static_cast<size_t>(dims.rank));
  int64_t elements = 1;
  for (int64_t size : shape) {
    elements *= size;
  }
  auto options =
      at::TensorOptions().dtype(dtype).device(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device_)));
  if (elements == 0) {
    return at::empty(shape, options);
  }
  int64_t const bytes = elements * static_cast<int64_t>(c10::elementSize(dtype));
  if (!memory.defined() || memory.numel() < bytes) {
    throw Failure(FailureKind::Execution, "TensorRT did not ask for the memory of an output that it allocates");
  }
  at::Tensor result = at::empty({0}, options);
  result.unsafeGetTensorImpl()->set_storage_keep_dtype(memory.storage());
  result.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return result;
}

}  // namespace engine_runtime
