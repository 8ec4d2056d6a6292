// Workspaces shared by engines that never run at once: one per device and stream.
#pragma once

#include <ATen/core/Tensor.h>

namespace engine_runtime {

// Memory of at least `size` bytes for work on a stream of `device`.  A workspace that grows is
// replaced; PyTorch's allocator keeps the old one from others until the stream is past it.
at::Tensor shared_workspace(int device, void* stream, int64_t size);

// Memory of its own.
at::Tensor own_workspace(int device, int64_t size);

}  // namespace engine_runtime
