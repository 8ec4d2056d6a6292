// Python objects in C++: owned references, the GIL, and conversions.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <torch/csrc/Dtype.h>
#include <torch/csrc/DynamicTypes.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/binding.h"
#include "tensorrt/log.h"
#include "engine/options.h"
#include "engine/capture_safe_lock.h"

namespace engine_runtime {

// An owned reference.
class Object {
 public:
  explicit Object(PyObject* object = nullptr) : object_(object) {}
  ~Object() { Py_XDECREF(object_); }
  Object(Object&& other) noexcept : object_(other.release()) {}
  Object(Object const&) = delete;
  Object& operator=(Object const&) = delete;
  Object& operator=(Object&&) = delete;

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_;
};

// A Python exception is set.
struct Raised {};

inline Object checked(PyObject* object) {
  if (object == nullptr) {
    throw Raised();
  }
  return Object(object);
}

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(WithoutGil const&) = delete;
  WithoutGil& operator=(WithoutGil const&) = delete;

 private:
  PyThreadState* state_;
};

class WithGil {
 public:
  WithGil() : state_(PyGILState_Ensure()) {}
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(WithGil const&) = delete;
  WithGil& operator=(WithGil const&) = delete;

 private:
  PyGILState_STATE state_;
};

inline Object text_object(std::string const& text) {
  return checked(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

template <typename Items, typename Make>
Object list_of(Items const& items, Make make) {
  Object list = checked(PyList_New(static_cast<Py_ssize_t>(items.size())));
  for (size_t i = 0; i < items.size(); ++i) {
    PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), make(items[i]).release());
  }
  return list;
}

inline Object list_of_texts(std::vector<std::string> const& texts) { return list_of(texts, text_object); }

inline Object list_of_sizes(Sizes const& sizes) {
  return list_of(sizes, [](int64_t size) { return checked(PyLong_FromLongLong(size)); });
}

inline std::string text_of(PyObject* object) {
  Py_ssize_t size = 0;
  char const* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (text == nullptr) {
    throw Raised();
  }
  return {text, static_cast<size_t>(size)};
}

inline std::vector<std::string> texts_of(PyObject* object) {
  Object items = checked(PySequence_Fast(object, "a sequence of strings is expected"));
  std::vector<std::string> texts;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
    texts.push_back(text_of(PySequence_Fast_GET_ITEM(items.get(), i)));
  }
  return texts;
}

inline Sizes sizes_of(PyObject* object) {
  Object items = checked(PySequence_Fast(object, "a sequence of sizes is expected"));
  Sizes sizes;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
    sizes.push_back(PyLong_AsLongLong(PySequence_Fast_GET_ITEM(items.get(), i)));
    if (sizes.back() == -1 && PyErr_Occurred() != nullptr) {
      throw Raised();
    }
  }
  return sizes;
}

// A lock of Python, through its two methods.
class PythonLock final : public CaptureSafeLock {
 public:
  PythonLock(PyObject* acquire, PyObject* release) : acquire_(acquire), release_(release) {}

  void acquire() override { call(acquire_); }
  void release() override { call(release_); }

 private:
  static void call(PyObject* method) {
    WithGil gil;
    Object result(PyObject_CallNoArgs(method));
    if (!result) {
      PyErr_WriteUnraisable(method);
    }
  }

  PyObject* acquire_;
  PyObject* release_;
};

// Python's TensorRT logger, through three callables.
class PythonLog final : public LogSource {
 public:
  PythonLog(PyObject* begin, PyObject* finish, PyObject* recent) : begin_(begin), finish_(finish), recent_(recent) {
    Py_INCREF(begin);
    Py_INCREF(finish);
    Py_INCREF(recent);
  }

  void* begin() override {
    WithGil gil;
    return quietly(PyObject_CallNoArgs(begin_));
  }

  std::vector<std::string> finish(void* token) override {
    WithGil gil;
    Object owned(static_cast<PyObject*>(token));
    return token == nullptr ? std::vector<std::string>() : texts(PyObject_CallOneArg(finish_, owned.get()));
  }

  std::vector<std::string> recent() override {
    WithGil gil;
    return texts(PyObject_CallNoArgs(recent_));
  }

 private:
  static PyObject* quietly(PyObject* object) {
    if (object == nullptr) {
      PyErr_Clear();
    }
    return object;
  }

  static std::vector<std::string> texts(PyObject* found) {
    Object owned(quietly(found));
    try {
      return owned ? texts_of(owned.get()) : std::vector<std::string>();
    } catch (Raised const&) {
      PyErr_Clear();
      return {};
    }
  }

  PyObject* begin_;
  PyObject* finish_;
  PyObject* recent_;
};

inline Object dtype_object(c10::ScalarType dtype) {
  auto* object = reinterpret_cast<PyObject*>(torch::getTHPDtype(dtype));
  Py_INCREF(object);
  return checked(object);
}

inline Object bounds_object(std::vector<Bounds> const& profiles) {
  return list_of(profiles, [](Bounds const& bounds) { return list_of(bounds, list_of_sizes); });
}

inline Object binding_object(Binding const& binding) {
  Object dtype = dtype_object(binding.dtype);
  Object shape = list_of_sizes(binding.shape);
  Object shapes = bounds_object(binding.shapes);
  Object values = bounds_object(binding.values);
  return checked(Py_BuildValue(
      "(sOOOOOs)",
      binding.name.c_str(),
      dtype.get(),
      shape.get(),
      binding.host ? Py_True : Py_False,
      shapes.get(),
      values.get(),
      binding.aliased_input.c_str()));
}

// The tuple of options that CppEngine makes.
inline Options options_of(PyObject* object) {
  int pre_allocated = 0;
  int share = 0;
  int capture = 0;
  int specialization = 0;
  PyObject* budget = nullptr;
  char const* folder = nullptr;
  Py_ssize_t folder_size = 0;
  char const* cache = nullptr;
  Py_ssize_t cache_size = 0;
  if (!PyArg_ParseTuple(
          object,
          "pppiOs#y#",
          &pre_allocated,
          &share,
          &capture,
          &specialization,
          &budget,
          &folder,
          &folder_size,
          &cache,
          &cache_size)) {
    throw Raised();
  }
  Options options;
  options.pre_allocated_outputs = pre_allocated != 0;
  options.share_device_memory = share != 0;
  options.whole_graph_capture = capture != 0;
  options.kernel_specialization = specialization;
  if (budget != Py_None) {
    options.streaming_budget = PyLong_AsLongLong(budget);
    if (PyErr_Occurred() != nullptr) {
      throw Raised();
    }
  }
  options.runtime_cache_folder.assign(folder, static_cast<size_t>(folder_size));
  options.runtime_cache.assign(cache, static_cast<size_t>(cache_size));
  return options;
}

}  // namespace engine_runtime
