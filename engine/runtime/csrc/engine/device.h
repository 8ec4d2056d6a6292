// CUDA through PyTorch's device-independent interfaces, so that no CUDA headers are needed.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

namespace engine_runtime::device {

// Throws Failure (Unavailable) with what is missing where engines cannot run in this process.
void require_gpu();

int count();
int current();

// PyTorch's current stream on a device.
c10::Stream current_stream(int index);

// The cudaStream_t of a stream.
void* handle(c10::Stream const& stream);

// Whether a stream is being captured into a CUDA graph.
bool capturing(void* stream);

// Whether all work queued on a stream is done; false for a stream under capture.
bool done(c10::Stream const& stream);

// Waits until it is.
void synchronise(c10::Stream const& stream);

// Makes work queued later on `waiting` wait for what is queued on `running`.
void wait(c10::Stream const& waiting, c10::Stream const& running);

}  // namespace engine_runtime::device
