// Python threads that queue work on one GPU take turns.
//
// Side by side they would be slower than one of them alone: a call gives the GIL away, and to be
// woken up when it is free again takes longer than the call.  So a thread that calls again and
// again keeps the turn for a time slice, as it would keep the GIL if it did not give it away.
#pragma once

namespace engine_runtime {

// Waits for the turn of a device, which the thread then keeps for further calls; `give_turn` has to
// follow each.  Without the GIL.  Waiting ends when who has the turn pauses between calls, is held
// up inside one because the GPU has no room for more work, or had its slice.  So two threads may be
// inside: nothing relies on there being one.
void take_turn(int device);
void give_turn(int device);

// A turn for the life of the object.
class Turn {
 public:
  explicit Turn(int device) : device_(device) { take_turn(device_); }
  ~Turn() { give_turn(device_); }
  Turn(Turn const&) = delete;
  Turn& operator=(Turn const&) = delete;

 private:
  int device_;
};

}  // namespace engine_runtime
