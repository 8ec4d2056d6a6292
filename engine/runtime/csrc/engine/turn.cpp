#include "engine/turn.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

namespace engine_runtime {
namespace {

using Microseconds = int64_t;

// How long a thread has the turn while others wait: less than CPython's switch interval, 5 ms.
constexpr Microseconds kSlice = 2000;
// How long it may be away between two calls, and inside one.
constexpr Microseconds kPause = 50;
constexpr Microseconds kHeldUp = 300;
// Less than the operating system's timers can tell from nothing.
constexpr auto kNap = std::chrono::microseconds(20);

Microseconds now() {
  auto const since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(since).count();
}

// The address of a thread's own variable tells it from the others.
thread_local char const self = 0;

struct Queue {
  std::atomic<char const*> owner{nullptr};
  std::atomic<Microseconds> since{0};
  std::atomic<Microseconds> left{0};
  std::atomic<bool> inside{false};

  bool is_free() const {
    Microseconds const time = now();
    return time - left.load(std::memory_order_relaxed) > (inside.load(std::memory_order_relaxed) ? kHeldUp : kPause) ||
        time - since.load(std::memory_order_relaxed) > kSlice;
  }
};

Queue& queue_of(int device) {
  // Devices that share an entry only wait without need.
  static std::array<Queue, 16> queues;
  return queues[static_cast<size_t>(device) % queues.size()];
}

}  // namespace

void take_turn(int device) {
  Queue& queue = queue_of(device);
  char const* owner = queue.owner.load(std::memory_order_relaxed);
  while (owner != &self) {
    if (!queue.is_free()) {
      std::this_thread::sleep_for(kNap);
      owner = queue.owner.load(std::memory_order_relaxed);
    } else if (queue.owner.compare_exchange_weak(owner, &self, std::memory_order_relaxed)) {
      queue.since.store(now(), std::memory_order_relaxed);
      queue.left.store(now(), std::memory_order_relaxed);
      break;
    }
  }
  queue.inside.store(true, std::memory_order_relaxed);
}

void give_turn(int device) {
  Queue& queue = queue_of(device);
  queue.left.store(now(), std::memory_order_relaxed);
  queue.inside.store(false, std::memory_order_relaxed);
}

}  // namespace engine_runtime
