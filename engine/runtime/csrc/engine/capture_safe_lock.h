// A lock that nothing holds while a CUDA graph is recorded elsewhere in the process: TensorRT may wait
// for the whole device when it makes a context, which CUDA forbids then.
#pragma once

namespace engine_runtime {

// Where the lock is Python's: what takes and what releases it, on the calling thread.
class CaptureSafeLock {
 public:
  virtual ~CaptureSafeLock() = default;
  virtual void acquire() = 0;
  virtual void release() = 0;
};

// Without one nothing is locked: a program without Python records no graphs through this library.
void set_capture_safe_lock(CaptureSafeLock* lock);

// Holds the lock while it lives; to be taken before any lock of an engine.
class CaptureSafeGuard {
 public:
  CaptureSafeGuard();
  ~CaptureSafeGuard();
  CaptureSafeGuard(CaptureSafeGuard const&) = delete;
  CaptureSafeGuard& operator=(CaptureSafeGuard const&) = delete;

 private:
  CaptureSafeLock* lock_;
};

}  // namespace engine_runtime
