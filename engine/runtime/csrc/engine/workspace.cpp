#include "engine/workspace.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

namespace engine_runtime {

at::Tensor own_workspace(int device, int64_t size) {
  return at::empty(
      {std::max<int64_t>(size, 1)},
      at::TensorOptions().dtype(at::kByte).device(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device))));
}

at::Tensor shared_workspace(int device, void* stream, int64_t size) {
  // Never destroyed: PyTorch's allocator may be gone before the statics of this library.
  static auto* mutex = new std::mutex;
  static auto* spaces = new std::map<std::pair<int, void*>, at::Tensor>;
  std::lock_guard<std::mutex> lock(*mutex);
  at::Tensor& space = (*spaces)[{device, stream}];
  if (!space.defined() || space.numel() < size) {
    space = at::Tensor();
    space = own_workspace(device, size);
  }
  return space;
}

}  // namespace engine_runtime
