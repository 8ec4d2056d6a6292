// A pooled context: an execution context, the stream whose work it last joined, and what is set on it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tensorrt/abi.h"
#include "engine/configuration.h"
#include "engine/output_allocator.h"
#include "engine/shape_binding.h"

namespace engine_runtime {

struct PooledContext {
  PooledContext(void* context, std::unique_ptr<Configuration> configuration, size_t inputs, size_t outputs);
  ~PooledContext();
  PooledContext(PooledContext const&) = delete;
  PooledContext& operator=(PooledContext const&) = delete;

  // Set everything again at the next call.
  void forget();

  void* context;
  std::unique_ptr<Configuration> configuration;  // null where TensorRT has none
  ShapeBindingPointer bound;  // what is bound; null where nothing is
  int profile = -1;
  std::vector<void const*> input_addresses;
  std::vector<void const*> output_addresses;
  std::map<int, std::unique_ptr<TensorAllocator>> allocators;
  std::map<int, at::Tensor> host_outputs;
  std::vector<at::Tensor> kept;  // the outputs of `bound`, where calls share them
  at::Tensor workspace;                  // where the workspace is shared or a captured graph's
  int64_t workspace_size = 0;
  void* stream_handle = nullptr;
  // Empty for a context that has not run: it joined no stream.
  std::optional<c10::Stream> stream;
  bool retired = false;  // a captured CUDA graph holds it
  bool extra = false;    // made so that shapes that take turns need not be set again
  int rebound = 0;       // how often another shape binding was set
};

// Lanes of one engine on one device.
//
// A pooled context stays with a stream, where the order of the stream keeps two runs of it apart.  It
// changes streams when its work is done, or, at the limit, by waiting for that work.  Every context
// holds the engine's workspace once more, so one is made only where runs really overlap, or
// where shapes take turns on one stream again and again.
class ContextPool {
 public:
  ContextPool(std::function<std::unique_ptr<PooledContext>()> create, size_t limit);

  // Puts in a context that has not run yet.
  void add(std::unique_ptr<PooledContext> pooled);

  // An idle context that last ran on a stream, if possible with the signature bound; else null.
  PooledContext* take_idle(void* stream, Signature const& signature);

  // A context for a stream; may create one, or wait until one is given back.
  PooledContext* take(c10::Stream const& stream, void* handle);

  // Counts a call that finds the contexts of its stream set up for other shapes; true where the last ones were of at most
  // `most` shapes, so that each may have a context of its own.
  bool take_turns(void* handle, ShapeBindingPointer const& bound, size_t most);

  // One more context for a stream on which fewer than `most` are; null where there may be no more.
  PooledContext* take_extra(c10::Stream const& stream, void* handle, size_t most);

  // A context to be captured into a CUDA graph.  The graph replays with the context's workspace at any
  // later time, so it serves nothing else from now on.  Nothing may be created or waited for
  // during capture, so one on which `bound` is set must be there.  Throws Failure (Execution).
  PooledContext* take_for_capture(c10::Stream const& stream, void* handle, ShapeBindingPointer const& bound);

  void give(PooledContext* pooled);

  // Destroys a context that was taken, when its work is done.
  void discard(PooledContext* pooled);

  // The contexts that were captured since this was asked last.
  std::vector<PooledContext*> take_captured();

  // Takes back a context whose CUDA graph is gone.
  void release_captured(PooledContext* pooled);

  // Destroys all contexts; waits for those in use, and leaves alone those of captured graphs.
  void drain();

  // Whether there are contexts that CUDA graphs hold.
  bool captured() const;

  // Lanes without those.
  size_t size() const;

  // The largest of their collections of compiled kernels; empty where there are none.
  std::string kernels() const;

 private:
  PooledContext* claim(std::function<bool(PooledContext const&)> const& fits);
  PooledContext* made(c10::Stream const& stream, void* handle, bool extra);

  std::function<std::unique_ptr<PooledContext>()> create_;
  size_t limit_;
  mutable std::mutex mutex_;
  std::mutex creating_;
  std::condition_variable given_;
  std::vector<std::unique_ptr<PooledContext>> contexts_;
  std::vector<PooledContext*> idle_;
  std::vector<std::unique_ptr<PooledContext>> captured_;
  std::vector<PooledContext*> newly_captured_;
  // For each stream, the bindings of the calls that found its contexts set up for others, and how many calls.
  std::map<void*, std::pair<std::set<ShapeBindingPointer>, int>> missed_;
  // Lanes that exist or are being made, without the captured ones; the extra ones among them.
  size_t count_ = 0;
  size_t extra_ = 0;
};

}  // namespace engine_runtime
