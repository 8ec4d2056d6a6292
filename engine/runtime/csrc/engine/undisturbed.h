// Kept from happening while a CUDA graph is recorded elsewhere in the process: TensorRT may wait
// for the whole device when it makes a context, which CUDA forbids then.
#pragma once

namespace engine_runtime {

// Where the lock is Python's: what takes and what releases it, on the calling thread.
class UndisturbedLock {
 public:
  virtual ~UndisturbedLock() = default;
  virtual void acquire() = 0;
  virtual void release() = 0;
};

// Without one nothing is locked: a program without Python records no graphs through this library.
void set_undisturbed_lock(UndisturbedLock* lock);

// Holds the lock while it lives; to be taken before any lock of an engine.
class Undisturbed {
 public:
  Undisturbed();
  ~Undisturbed();
  Undisturbed(Undisturbed const&) = delete;
  Undisturbed& operator=(Undisturbed const&) = delete;

 private:
  UndisturbedLock* lock_;
};

}  // namespace engine_runtime
