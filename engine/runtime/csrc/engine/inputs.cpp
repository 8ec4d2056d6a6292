// The inputs of a call: read where they lie, and copied where they cannot be bound as they are.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>

#include <cstring>

#include "tensorrt/failure.h"
#include "engine/given.h"
#include "engine/limits.h"
#include "engine/loaded_engine.h"

namespace engine_runtime {
namespace {

bool misaligned(void const* address) { return reinterpret_cast<uintptr_t>(address) % kAlignment != 0; }

bool is_view_of_other_values(at::TensorImpl const& tensor) {
  return tensor.key_set().has_any(c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative}));
}

int64_t elements(std::vector<int64_t> const& shape) {
  int64_t count = 1;
  for (int64_t size : shape) {
    count *= size == -1 ? 1 : size;
  }
  return count;
}

void append_bytes(Signature& signature, void const* bytes, size_t count) {
  size_t const start = signature.size();
  signature.resize(start + (count + sizeof(int64_t) - 1) / sizeof(int64_t), 0);
  if (count != 0) {
    std::memcpy(signature.data() + start, bytes, count);
  }
}

}  // namespace

bool LoadedEngine::read(Input const* inputs, size_t count, Given& given) const {
  for (size_t i = 0; i < count; ++i) {
    Binding const& binding = inputs_[i];
    Input const& input = inputs[i];
    if (input.kind != Input::Kind::Tensor) {
      bool const size = binding.host && input.kind == Input::Kind::Int && elements(binding.shape) == 1 &&
          (binding.dtype == at::kLong || binding.dtype == at::kInt);
      if (!size) {
        return false;
      }
      given.signature.append(binding.shape.size(), 1);
      given.addresses.push_back(nullptr);
      continue;
    }
    at::TensorImpl const& tensor = *input.tensor->unsafeGetTensorImpl();
    bool const placed = binding.host ? tensor.is_cpu()
                                     : tensor.is_cuda() && tensor.device().index() == device_;
    if (!placed || tensor.layout() != c10::Layout::Strided || tensor.dtype() != c10::scalarTypeToTypeMeta(binding.dtype) ||
        !tensor.is_contiguous() || is_view_of_other_values(tensor)) {
      return false;
    }
    c10::IntArrayRef const shape = tensor.sizes();
    if (shape.size() != binding.shape.size()) {
      return false;
    }
    given.signature.append(shape.begin(), shape.end());
    if (binding.host) {
      given.addresses.push_back(nullptr);
      continue;
    }
    void const* address = written_[i] ? input.tensor->mutable_data_ptr() : input.tensor->const_data_ptr();
    if (address == nullptr) {
      address = scratch_address_;
    } else if (misaligned(address)) {
      return false;
    }
    given.addresses.push_back(address);
  }
  for (size_t i = 0; has_host_inputs_ && i < count; ++i) {
    if (!inputs_[i].host) {
      continue;
    }
    size_t const width = c10::elementSize(inputs_[i].dtype);
    if (inputs[i].kind == Input::Kind::Tensor) {
      at::Tensor const& tensor = *inputs[i].tensor;
      append_bytes(given.signature, tensor.const_data_ptr(), static_cast<size_t>(tensor.numel()) * width);
    } else {
      // Little-endian, so that the low bytes of a long are an int.
      append_bytes(given.signature, &inputs[i].integer, width);
    }
  }
  given.inputs = inputs;
  return true;
}

void LoadedEngine::normalise(Input const* inputs, size_t count, Given& given) const {
  given.owned.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    Binding const& binding = inputs_[i];
    at::Tensor tensor =
        inputs[i].kind == Input::Kind::Tensor ? inputs[i].tensor->detach() : from_number(binding, inputs[i]);
    if (tensor.scalar_type() != binding.dtype) {
      throw Failure(
          FailureKind::Input,
          "input '" + binding.name + "' is " + dtype_name(tensor.scalar_type()) + ", the engine takes " +
              dtype_name(binding.dtype));
    }
    if (tensor.layout() != c10::Layout::Strided) {
      throw Failure(FailureKind::Input, "input '" + binding.name + "' is not a dense tensor");
    }
    if (binding.host) {
      // TensorRT computes shapes from it on the host: a GPU tensor has to be waited for.
      tensor = tensor.to(at::kCPU).resolve_neg().contiguous();
    } else {
      tensor = on_device(binding, std::move(tensor), written_[i]);
    }
    given.owned.push_back(std::move(tensor));
  }
  std::vector<Sizes> shapes;
  bool ranks = true;
  for (size_t i = 0; i < count; ++i) {
    shapes.push_back(given.owned[i].sizes().vec());
    ranks = ranks && shapes[i].size() == inputs_[i].shape.size();
  }
  if (!ranks) {
    choose_profile(inputs_, shapes, std::vector<Sizes>(count));
  }
  given.normal.resize(count);
  for (size_t i = 0; i < count; ++i) {
    given.normal[i].tensor = &given.owned[i];
  }
  given.signature.clear();
  given.addresses.clear();
  if (!read(given.normal.data(), count, given)) {
    throw Failure(FailureKind::Input, "the inputs of " + called() + " cannot be bound");
  }
}

at::Tensor LoadedEngine::from_number(Binding const& binding, Input const& input) const {
  std::string const name = "input '" + binding.name + "'";
  if (elements(binding.shape) != 1) {
    throw Failure(FailureKind::Input, name + " is a number, the engine takes shape " + bracketed(binding.shape));
  }
  if (input.kind == Input::Kind::Float && !c10::isFloatingType(binding.dtype)) {
    throw Failure(FailureKind::Input, name + " is a float, the engine takes " + dtype_name(binding.dtype));
  }
  std::vector<int64_t> const shape(binding.shape.size(), 1);
  at::Device const device =
      binding.host ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device_));
  at::Scalar value = input.kind == Input::Kind::Float ? at::Scalar(input.floating) : at::Scalar(input.integer);
  // Filled by a kernel, not copied: the call must not wait for the GPU.
  return at::full(shape, value, at::TensorOptions().dtype(binding.dtype).device(device));
}

at::Tensor LoadedEngine::on_device(Binding const& binding, at::Tensor tensor, bool written) const {
  at::Device const device(at::kCUDA, static_cast<c10::DeviceIndex>(device_));
  if (written &&
      (tensor.device() != device || !tensor.is_contiguous() || is_view_of_other_values(*tensor.unsafeGetTensorImpl()) ||
       misaligned(tensor.const_data_ptr()))) {
    throw Failure(
        FailureKind::Input,
        "input '" + binding.name + "' is written to by the engine: it has to be a contiguous tensor on " +
            device.str() + ", aligned to " + std::to_string(kAlignment) + " bytes");
  }
  if (tensor.device() != device) {
    // PyTorch lets a 0-d CPU tensor stand beside CUDA tensors as if it were a number.
    if (tensor.dim() != 0 || !tensor.is_cpu()) {
      throw Failure(
          FailureKind::Input,
          "input '" + binding.name + "' is on " + tensor.device().str() + ", the engine runs on " + device.str());
    }
    tensor = tensor.to(device, tensor.scalar_type(), /*non_blocking=*/true);
  }
  tensor = tensor.resolve_conj().resolve_neg().contiguous();
  return misaligned(tensor.const_data_ptr()) ? tensor.clone(at::MemoryFormat::Contiguous) : tensor;
}

void LoadedEngine::check_count(size_t count) const {
  if (count == inputs_.size()) {
    return;
  }
  std::string names;
  for (Binding const& binding : inputs_) {
    names += (names.empty() ? "" : ", ") + binding.name;
  }
  throw Failure(
      FailureKind::Input,
      std::to_string(count) + " inputs given, the engine takes " + std::to_string(inputs_.size()) + ": " + names);
}

}  // namespace engine_runtime
