// Loading an engine, its options and its execution contexts.
#include "engine/loaded_engine.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/device.h"
#include "tensorrt/failure.h"
#include "tensorrt/log.h"

namespace engine_runtime {
namespace {

constexpr int64_t kScratchBytes = 512;

std::string quoted_list(std::vector<std::string> const& names) {
  std::string text = "[";
  for (size_t i = 0; i < names.size(); ++i) {
    text += (i == 0 ? "'" : ", '") + names[i] + "'";
  }
  return text + "]";
}

// The given names are the engine's own, in some order; none given means the engine's order.
void match_names(std::string const& what, std::vector<std::string>& given, std::vector<std::string> own) {
  if (given.empty()) {
    given = std::move(own);
    return;
  }
  std::vector<std::string> sorted = given;
  std::vector<std::string> expected = own;
  std::sort(sorted.begin(), sorted.end());
  std::sort(expected.begin(), expected.end());
  if (sorted != expected) {
    throw Failure(
        FailureKind::Unavailable,
        "the " + what + " binding names given are " + quoted_list(given) + ", the engine's " + what + "s are " +
            quoted_list(own) + ": pass the names that the network was built with");
  }
}

}  // namespace

LoadedEngine::LoadedEngine(
    void const* plan,
    size_t size,
    int device,
    std::vector<std::string> inputs,
    std::vector<std::string> outputs,
    std::string name,
    bool allocate_outputs,
    Options options,
    size_t contexts)
    : library_((device::require_gpu(), library())),
      device_(device),
      name_(std::move(name)),
      allocate_outputs_(allocate_outputs),
      options_(std::move(options)),
      pool_(std::make_unique<ContextPool>([this] { return make_context(); }, contexts)) {
  if (device < 0 || device >= device::count()) {
    throw Failure(
        FailureKind::Unavailable,
        "there is no CUDA device " + std::to_string(device) + ": this machine has " + std::to_string(device::count()));
  }
  c10::DeviceGuard guard(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)));
  // Made first: it makes CUDA's context on the device, which TensorRT then uses.
  scratch_ = at::empty({kScratchBytes}, at::TensorOptions().dtype(at::kByte).device(at::Device(at::kCUDA, device)));
  scratch_address_ = scratch_.mutable_data_ptr();
  std::vector<std::string> names[2] = {std::move(inputs), std::move(outputs)};
  try {
    load(plan, size, names);
    apply_options();
    pool_->add(make_context());
  } catch (...) {
    pool_.reset();
    abi::destroy(engine_);
    throw;
  }
}

LoadedEngine::~LoadedEngine() {
  // Contexts go before the engine, and the engine before the scratch memory.
  pool_.reset();
  abi::destroy(engine_);
}

void LoadedEngine::load(void const* plan, size_t size, std::vector<std::string> names[2]) {
  static std::mutex mutex;
  abi::EngineSlots const& slots = library_.layout->engine;
  {
    std::lock_guard<std::mutex> lock(mutex);
    Listener listener;
    engine_ =
        abi::call<void*, void const*, size_t>(library_.runtime, library_.layout->runtime_deserialize, plan, size);
    if (engine_ == nullptr) {
      throw Failure(FailureKind::Load, called() + " does not load", listener.errors());
    }
  }
  match_names("input", names[0], binding_names(engine_, slots, abi::TensorMode::Input));
  match_names("output", names[1], binding_names(engine_, slots, abi::TensorMode::Output));
  inputs_ = read_bindings(engine_, slots, names[0], true);
  outputs_ = read_bindings(engine_, slots, names[1], false);
  profiles_ = std::max(1, abi::call<int32_t>(engine_, slots.profiles));
  written_.assign(inputs_.size(), false);
  for (Binding const& output : outputs_) {
    auto found = std::find_if(
        inputs_.begin(), inputs_.end(), [&](Binding const& input) { return input.name == output.aliased_input; });
    aliases_.push_back(found == inputs_.end() ? -1 : static_cast<int>(found - inputs_.begin()));
    if (found != inputs_.end()) {
      written_[static_cast<size_t>(aliases_.back())] = true;
    }
  }
  has_host_inputs_ = std::any_of(inputs_.begin(), inputs_.end(), [](Binding const& input) { return input.host; });
}

void LoadedEngine::apply_options() {
  abi::EngineSlots const& slots = library_.layout->engine;
  Listener listener;
  int64_t const streamable = abi::call<int64_t>(engine_, slots.streamable_weights);
  if (options_.streaming_budget.has_value() && streamable == 0) {
    throw Failure(
        FailureKind::Settings,
        "weight_streaming_budget=" + std::to_string(*options_.streaming_budget) +
            ": the engine has no weights that can stay in host memory; it has to be built with "
            "enable_weight_streaming=True, by a TensorRT that has it");
  }
  if (streamable != 0) {
    int64_t const budget = std::min(options_.streaming_budget.value_or(streamable), streamable);
    if (abi::call<int64_t>(engine_, slots.streaming_budget) != budget &&
        !abi::call<bool, int64_t>(engine_, slots.set_streaming_budget, budget)) {
      throw Failure(
          FailureKind::Settings,
          "TensorRT rejects a weight streaming budget of " + std::to_string(budget) + " bytes",
          listener.errors());
    }
  }
  if (options_.needs_rtx() && !library_.layout->rtx) {
    throw Failure(
        FailureKind::Settings,
        "a CUDA graph strategy, kernel specialization strategy or runtime cache is part of TensorRT-RTX, and " +
            library_.path + " is TensorRT");
  }
  kernels_ = std::move(options_.runtime_cache);
  options_.runtime_cache.clear();
  compiled_ = refused_ = false;
  memory_size_ = abi::call<int64_t>(engine_, slots.memory_size);
}

void LoadedEngine::configure(Options options) {
  std::unique_lock<std::shared_mutex> lock(configuring_);
  bool const same = options.share_device_memory == options_.share_device_memory &&
      options.whole_graph_capture == options_.whole_graph_capture &&
      options.kernel_specialization == options_.kernel_specialization &&
      options.streaming_budget == options_.streaming_budget &&
      options.runtime_cache_folder == options_.runtime_cache_folder &&
      options.pre_allocated_outputs == options_.pre_allocated_outputs;
  if (same) {
    return;
  }
  if (options.streaming_budget != options_.streaming_budget && pool_->captured()) {
    throw Failure(
        FailureKind::Unavailable, called() + " is in use by a CUDA graph: its weight budget cannot change now");
  }
  c10::DeviceGuard guard(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_)));
  pool_->drain();
  Options before = std::exchange(options_, std::move(options));
  try {
    apply_options();
    pool_->add(make_context());
  } catch (...) {
    options_ = std::move(before);
    apply_options();
    pool_->add(make_context());
    throw;
  }
}

std::unique_ptr<PooledContext> LoadedEngine::make_context() {
  abi::EngineSlots const& slots = library_.layout->engine;
  Listener listener;
  void* context = nullptr;
  std::unique_ptr<Configuration> configuration;
  if (library_.layout->rtx) {
    configuration = std::make_unique<Configuration>(engine_, *library_.layout, options_, kernels_);
    context = abi::call<void*, void*>(engine_, slots.create_context_with_config, configuration->object());
  } else {
    auto strategy = options_.share_device_memory ? abi::MemoryStrategy::UserManaged : abi::MemoryStrategy::Static;
    context = abi::call<void*, abi::MemoryStrategy>(engine_, slots.create_context, strategy);
  }
  if (context == nullptr) {
    size_t const made = pool_->size();
    if (made == 0) {
      throw Failure(
          FailureKind::Load, "TensorRT loads " + called() + " and cannot prepare it to run", listener.errors());
    }
    throw Failure(
        FailureKind::Execution,
        "TensorRT cannot make " + std::to_string(made) + " execution contexts for " + called(),
        listener.errors());
  }
  if (configuration != nullptr && !compiled_) {
    compiled_ = true;
    refused_ = configuration->refused();
    kernels_ = configuration->kernels();
  }
  auto pooled = std::make_unique<PooledContext>(context, std::move(configuration), inputs_.size(), outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i].host) {
      at::Tensor memory = at::empty(outputs_[i].shape, at::TensorOptions().dtype(outputs_[i].dtype));
      abi::call<bool, char const*, void*>(
          context, library_.layout->context.set_address, outputs_[i].name.c_str(), memory.mutable_data_ptr());
      pooled->host_outputs.emplace(static_cast<int>(i), std::move(memory));
    }
  }
  return pooled;
}

double LoadedEngine::time_enqueue(int64_t calls) {
  std::shared_lock<std::shared_mutex> lock(configuring_);
  c10::Stream const stream = device::current_stream(device_);
  void* const handle = device::handle(stream);
  PooledContext* pooled = pool_->take_idle(handle, {});
  if (pooled == nullptr || pooled->bound == nullptr) {
    if (pooled != nullptr) {
      pool_->give(pooled);
    }
    throw Failure(FailureKind::Execution, called() + " has not run on the current stream");
  }
  auto const start = std::chrono::steady_clock::now();
  bool queued = true;
  for (int64_t i = 0; i < calls; ++i) {
    queued = abi::call<bool, void*>(pooled->context, library_.layout->context.enqueue, handle) && queued;
  }
  std::chrono::duration<double, std::nano> const spent = std::chrono::steady_clock::now() - start;
  pool_->give(pooled);
  if (!queued) {
    throw Failure(FailureKind::Execution, called() + " did not run", recent_errors());
  }
  return spent.count() / static_cast<double>(calls);
}

std::string LoadedEngine::called() const { return name_.empty() ? "the engine" : "engine '" + name_ + "'"; }

}  // namespace engine_runtime
