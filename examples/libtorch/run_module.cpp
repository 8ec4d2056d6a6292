// Runs a compiled network from C++: LibTorch and this project's C++ library, no Python.
//
//   run_module LIBENGINE_RUNTIME MODEL EXAMPLE [CALLS]
#include <dlfcn.h>
#include <torch/script.h>

#include <chrono>
#include <cstdlib>
#include <iostream>

int main(int count, char** arguments) {
  if (count < 4) {
    std::cerr << "usage: run_module LIBENGINE_RUNTIME MODEL EXAMPLE [CALLS]" << std::endl;
    return 2;
  }
  if (!at::hasCUDA()) {
    std::cerr << "engines run on an NVIDIA GPU, and LibTorch finds none" << std::endl;
    return 1;
  }
  // Loading the library registers the class and the op that the saved module refers to.
  if (dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::cerr << dlerror() << std::endl;
    return 1;
  }
  try {
    torch::NoGradGuard no_grad;
    torch::jit::Module model = torch::jit::load(arguments[2]);
    torch::jit::Module example = torch::jit::load(arguments[3]);
    torch::Tensor const x = example.attr("x").toTensor().cuda();
    torch::Tensor const expected = example.attr("expected").toTensor();
    torch::jit::IValue result = model.forward({x});
    torch::Tensor const output = result.isTuple() ? result.toTuple()->elements()[0].toTensor() : result.toTensor();
    double const difference = (output.cpu() - expected).abs().max().item<double>();
    std::cout << "output " << output.sizes() << " on " << output.device() << ", largest difference from PyTorch "
              << difference << std::endl;
    int const calls = count > 4 ? std::atoi(arguments[4]) : 0;
    for (int i = 0; i < calls / 10; ++i) {
      model.forward({x});
    }
    auto const start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) {
      model.forward({x});
    }
    std::chrono::duration<double, std::micro> const spent = std::chrono::steady_clock::now() - start;
    if (calls > 0) {
      std::cout << spent.count() / calls << " us of host time per call" << std::endl;
    }
    return difference < 1e-2 ? 0 : 1;
  } catch (std::exception const& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
