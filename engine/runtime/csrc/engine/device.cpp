#include "engine/device.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <initializer_list>

#include "tensorrt/failure.h"

namespace engine_runtime::device {
namespace {

// A function of a library that PyTorch loaded; null where there is none.
void* find(char const* name, std::initializer_list<char const*> libraries) {
  if (void* found = dlsym(RTLD_DEFAULT, name); found != nullptr) {
    return found;
  }
  for (char const* library : libraries) {
    if (void* handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD); handle != nullptr) {
      if (void* found = dlsym(handle, name); found != nullptr) {
        return found;
      }
    }
  }
  return nullptr;
}

// Which libcudart it is depends on PyTorch's build.
void* find_cuda(char const* name) {
  return find(name, {"libcudart.so.13", "libcudart.so.12", "libtorch_cuda.so", "libc10_cuda.so"});
}

using Handle = void* (*)(c10::Stream const&);

// A PyTorch whose CUDA streams do not answer `native_handle` has the function that it stands for.
Handle find_handle(c10::Stream const& stream) {
  try {
    stream.native_handle();
    return [](c10::Stream const& each) { return each.native_handle(); };
  } catch (c10::Error const&) {
    void* found = find("_ZNK3c104cuda10CUDAStream6streamEv", {"libc10_cuda.so"});
    if (found == nullptr) {
      throw Failure(FailureKind::Unavailable, "this PyTorch does not tell the handle of a CUDA stream");
    }
    // A CUDAStream is a Stream and nothing else.
    return reinterpret_cast<Handle>(found);
  }
}

c10::impl::VirtualGuardImpl guard() { return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA); }

}  // namespace

int count() { return c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA) ? guard().deviceCount() : 0; }

void require_gpu() {
  if (!at::detail::getCUDAHooks().hasCUDA()) {
    throw Failure(
        FailureKind::Unavailable,
        "a TensorRT engine runs on an NVIDIA GPU only, and this PyTorch has no CUDA or finds no GPU");
  }
  if (count() == 0) {
    throw Failure(FailureKind::Unavailable, "a TensorRT engine runs on an NVIDIA GPU only, and PyTorch finds none");
  }
}

int current() { return guard().getDevice().index(); }

c10::Stream current_stream(int index) {
  return guard().getStream(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)));
}

void* handle(c10::Stream const& stream) {
  static Handle const native = find_handle(stream);
  return native(stream);
}

bool capturing(void* stream) {
  static auto* const is_capturing = reinterpret_cast<int (*)(void*, int*)>(find_cuda("cudaStreamIsCapturing"));
  static auto* const forget_error = reinterpret_cast<int (*)()>(find_cuda("cudaGetLastError"));
  int status = 0;
  if (is_capturing == nullptr) {
    return false;
  }
  if (is_capturing(stream, &status) != 0) {
    // The legacy stream while another one is captured: PyTorch must not find the error later.
    if (forget_error != nullptr) {
      forget_error();
    }
    return false;
  }
  return status != 0;
}

bool done(c10::Stream const& stream) { return !capturing(handle(stream)) && guard().queryStream(stream); }

void synchronise(c10::Stream const& stream) { guard().synchronizeStream(stream); }

void wait(c10::Stream const& waiting, c10::Stream const& running) {
  c10::Event event(c10::DeviceType::CUDA);
  event.record(running);
  event.block(waiting);
}

}  // namespace engine_runtime::device
