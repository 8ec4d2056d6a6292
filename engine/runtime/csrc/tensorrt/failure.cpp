#include "tensorrt/failure.h"

namespace engine_runtime {

std::string quoted(std::vector<std::string> const& messages) {
  if (messages.empty()) {
    return ": TensorRT gave no reason";
  }
  std::string text = "; TensorRT says:";
  for (std::string const& message : messages) {
    text += "\n  " + message;
  }
  return text;
}

Failure::Failure(FailureKind kind, std::string text)
    : std::runtime_error(text), kind_(kind), text_(std::move(text)) {}

Failure::Failure(FailureKind kind, std::string text, std::vector<std::string> messages)
    : std::runtime_error(text + quoted(messages)), kind_(kind), text_(std::move(text)), messages_(std::move(messages)) {}

}  // namespace engine_runtime
