// The Python module `engine.runtime._native`: engines called without the dispatcher.
//
// Plain CPython and PyTorch's tensor objects: a call costs little more than the work it queues.
#include "python/python_objects.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <memory>
#include <string>
#include <vector>

#include "tensorrt/failure.h"
#include "tensorrt/library.h"
#include "engine/loaded_engine.h"
#include "engine/turn.h"

namespace engine_runtime {
namespace {

// Makes the exception for a failure: called with its kind, its whole text, and the text without
// TensorRT's messages and these.
PyObject* failure_factory = nullptr;

void raise(Failure const& failure) {
  try {
    Object whole = text_object(failure.what());
    Object text = text_object(failure.text());
    Object messages = list_of_texts(failure.messages());
    if (failure_factory == nullptr) {
      PyErr_SetString(PyExc_RuntimeError, failure.what());
      return;
    }
    Object error = checked(PyObject_CallFunction(
        failure_factory, "iOOO", static_cast<int>(failure.kind()), whole.get(), text.get(), messages.get()));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  } catch (Raised const&) {
    // The exception that is set says what went wrong.
  }
}

template <typename Work>
PyObject* guarded(Work work) {
  try {
    return work();
  } catch (Raised const&) {
  } catch (Failure const& failure) {
    raise(failure);
  } catch (...) {
    // PyTorch's own errors: out of memory among them.
    torch::translate_exception_to_python(std::current_exception());
  }
  return nullptr;
}

struct NativeEngine {
  PyObject_HEAD
  LoadedEngine* engine;
};

LoadedEngine& engine_of(PyObject* self) { return *reinterpret_cast<NativeEngine*>(self)->engine; }

// What a call gives for one input.
Input input_of(LoadedEngine const& engine, PyObject* object, Py_ssize_t position) {
  Input input;
  if (THPVariable_Check(object)) {
    input.tensor = &THPVariable_Unpack(object);
  } else if (PyBool_Check(object)) {
    input.kind = Input::Kind::Bool;
    input.integer = object == Py_True ? 1 : 0;
  } else if (PyLong_Check(object)) {
    input.kind = Input::Kind::Int;
    input.integer = PyLong_AsLongLong(object);
    if (input.integer == -1 && PyErr_Occurred() != nullptr) {
      throw Raised();
    }
  } else if (PyFloat_Check(object)) {
    input.kind = Input::Kind::Float;
    input.floating = PyFloat_AS_DOUBLE(object);
  } else {
    auto const index = static_cast<size_t>(position);
    std::string const name = index < engine.inputs().size() ? engine.inputs()[index].name : std::to_string(position);
    throw Failure(
        FailureKind::Input,
        "input '" + name + "' is a " + Py_TYPE(object)->tp_name + ", the engine takes a tensor");
  }
  return input;
}

// Whether an input may be run without a look at PyTorch's modes and subclasses, on this engine's device.
bool is_plain(LoadedEngine const& engine, PyObject* object) {
  if (!THPVariable_CheckExact(object)) {
    return PyLong_Check(object) || PyFloat_Check(object);
  }
  at::Tensor const& tensor = THPVariable_Unpack(object);
  return !tensor.is_cuda() || tensor.device().index() == engine.device();
}

PyObject* run_inputs(PyObject* self, PyObject* given, bool only_plain) {
  return guarded([&]() -> PyObject* {
    LoadedEngine& engine = engine_of(self);
    // A list may change while the GIL is not held; a tuple holds its tensors.
    Object tuple = PyTuple_CheckExact(given) ? (Py_INCREF(given), Object(given)) : checked(PySequence_Tuple(given));
    Py_ssize_t const count = PyTuple_GET_SIZE(tuple.get());
    c10::SmallVector<Input, 8> inputs;
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* item = PyTuple_GET_ITEM(tuple.get(), i);
      if (only_plain && !is_plain(engine, item)) {
        Py_RETURN_NONE;
      }
      inputs.push_back(input_of(engine, item, i));
    }
    Results results;
    {
      WithoutGil released;
      Turn turn(engine.device());
      results = engine.run(inputs.data(), inputs.size());
    }
    Object list = checked(PyList_New(static_cast<Py_ssize_t>(results.size())));
    for (size_t i = 0; i < results.size(); ++i) {
      PyObject* wrapped = THPVariable_Wrap(std::move(results[i]));
      PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), checked(wrapped).release());
    }
    return list.release();
  });
}

PyObject* run(PyObject* self, PyObject* inputs) { return run_inputs(self, inputs, false); }

PyObject* try_run(PyObject* self, PyObject* inputs) { return run_inputs(self, inputs, true); }

PyObject* make(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static char const* names[] = {
        "plan", "device", "inputs", "outputs", "name", "allocate_outputs", "options", "contexts", nullptr};
    Py_buffer plan;
    int device = 0;
    PyObject* inputs = nullptr;
    PyObject* outputs = nullptr;
    char const* name = nullptr;
    int allocate = 0;
    PyObject* options = nullptr;
    Py_ssize_t contexts = 0;
    if (!PyArg_ParseTupleAndKeywords(
            arguments,
            keywords,
            "y*iOOspO!n",
            const_cast<char**>(names),
            &plan,
            &device,
            &inputs,
            &outputs,
            &name,
            &allocate,
            &PyTuple_Type,
            &options,
            &contexts)) {
      throw Raised();
    }
    std::unique_ptr<Py_buffer, void (*)(Py_buffer*)> held(&plan, PyBuffer_Release);
    std::vector<std::string> input_names = texts_of(inputs);
    std::vector<std::string> output_names = texts_of(outputs);
    Options chosen = options_of(options);
    std::unique_ptr<LoadedEngine> engine;
    {
      WithoutGil released;
      engine = std::make_unique<LoadedEngine>(
          plan.buf,
          static_cast<size_t>(plan.len),
          device,
          std::move(input_names),
          std::move(output_names),
          name,
          allocate != 0,
          std::move(chosen),
          static_cast<size_t>(contexts));
    }
    Object self = checked(type->tp_alloc(type, 0));
    reinterpret_cast<NativeEngine*>(self.get())->engine = engine.release();
    return self.release();
  });
}

void discard(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  LoadedEngine* engine = reinterpret_cast<NativeEngine*>(self)->engine;
  {
    // TensorRT may log, and waits for the GPU.
    WithoutGil released;
    delete engine;
  }
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* bindings(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    Object inputs = list_of(engine_of(self).inputs(), binding_object);
    Object outputs = list_of(engine_of(self).outputs(), binding_object);
    return PyTuple_Pack(2, inputs.get(), outputs.get());
  });
}

PyObject* output_shapes(PyObject* self, PyObject* given) {
  return guarded([&]() -> PyObject* {
    Object items = checked(PySequence_Fast(given, "a sequence of shapes is expected"));
    std::vector<Sizes> shapes;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
      shapes.push_back(sizes_of(PySequence_Fast_GET_ITEM(items.get(), i)));
    }
    std::vector<std::optional<Sizes>> found;
    {
      WithoutGil released;
      found = engine_of(self).output_shapes(shapes);
    }
    return list_of(found, [](std::optional<Sizes> const& shape) {
             return shape.has_value() ? list_of_sizes(*shape) : (Py_INCREF(Py_None), Object(Py_None));
           })
        .release();
  });
}

PyObject* configure(PyObject* self, PyObject* options) {
  return guarded([&]() -> PyObject* {
    Options chosen = options_of(options);
    {
      WithoutGil released;
      engine_of(self).configure(std::move(chosen));
    }
    Py_RETURN_NONE;
  });
}

PyObject* runtime_cache(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    if (!engine_of(self).keeps_kernels()) {
      Py_RETURN_NONE;
    }
    std::string contents;
    {
      WithoutGil released;
      contents = engine_of(self).kernels();
    }
    return Py_BuildValue(
        "(y#O)",
        contents.data(),
        static_cast<Py_ssize_t>(contents.size()),
        engine_of(self).kernels_refused() ? Py_True : Py_False);
  });
}

PyObject* take_captured(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    return list_of(engine_of(self).take_captured(), [](PooledContext* pooled) { return checked(PyLong_FromVoidPtr(pooled)); })
        .release();
  });
}

PyObject* release_captured(PyObject* self, PyObject* contexts) {
  return guarded([&]() -> PyObject* {
    Object items = checked(PySequence_Fast(contexts, "a list of take_captured is expected"));
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
      auto* pooled = static_cast<PooledContext*>(PyLong_AsVoidPtr(PySequence_Fast_GET_ITEM(items.get(), i)));
      WithoutGil released;
      engine_of(self).release_captured(pooled);
    }
    Py_RETURN_NONE;
  });
}

PyObject* counts(PyObject* self, PyObject*) {
  LoadedEngine const& engine = engine_of(self);
  return Py_BuildValue(
      "(nnO)",
      static_cast<Py_ssize_t>(engine.contexts()),
      static_cast<Py_ssize_t>(engine.shape_bindings()),
      engine.captured() ? Py_True : Py_False);
}

PyObject* time_enqueue(PyObject* self, PyObject* calls) {
  return guarded([&]() -> PyObject* {
    int64_t const number = PyLong_AsLongLong(calls);
    if (number <= 0) {
      PyErr_SetString(PyExc_ValueError, "a number of calls is expected");
      throw Raised();
    }
    double spent = 0;
    {
      WithoutGil released;
      spent = engine_of(self).time_enqueue(number);
    }
    return PyFloat_FromDouble(spent);
  });
}

PyMethodDef engine_methods[] = {
    {"run", run, METH_O, "run(inputs) -> list of tensors: queue one run on the current stream."},
    {"try_run", try_run, METH_O, "As run; None, and no run, where an input is of a subclass or on another device."},
    {"bindings", bindings, METH_NOARGS, "(inputs, outputs): a tuple for each binding."},
    {"output_shapes", output_shapes, METH_O, "Output shapes for input shapes; None for one found while running."},
    {"configure", configure, METH_O, "Run differently from now on; waits for calls that are under way."},
    {"runtime_cache", runtime_cache, METH_NOARGS, "(contents, whether the given ones were refused), or None."},
    {"take_captured", take_captured, METH_NOARGS, "What CUDA graphs captured since this was asked last."},
    {"release_captured", release_captured, METH_O, "Take back what a CUDA graph that is gone had captured."},
    {"counts", counts, METH_NOARGS, "(execution contexts, shape bindings, whether a CUDA graph holds a context)."},
    {"time_enqueue", time_enqueue, METH_O, "Nanoseconds of a bare enqueueV3 of the last run, over a number of calls."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot engine_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(make)},
    {Py_tp_dealloc, reinterpret_cast<void*>(discard)},
    {Py_tp_methods, engine_methods},
    {Py_tp_doc, const_cast<char*>("An engine on one GPU.")},
    {0, nullptr}};

PyType_Spec engine_spec = {
    "engine.runtime._native.NativeEngine", sizeof(NativeEngine), 0, Py_TPFLAGS_DEFAULT, engine_slots};

PyObject* use_library(PyObject*, PyObject* path) {
  return guarded([&]() -> PyObject* {
    std::string const file = text_of(path);
    Library const* opened = nullptr;
    {
      WithoutGil released;
      opened = &open_library(file);
    }
    return Py_BuildValue("(sis)", opened->path.c_str(), opened->version, opened->layout->name);
  });
}

PyObject* set_failure_factory(PyObject*, PyObject* factory) {
  Py_INCREF(factory);
  Py_XDECREF(std::exchange(failure_factory, factory));
  Py_RETURN_NONE;
}

PyObject* set_log(PyObject*, PyObject* arguments) {
  PyObject* begin = nullptr;
  PyObject* finish = nullptr;
  PyObject* recent = nullptr;
  if (!PyArg_ParseTuple(arguments, "OOO", &begin, &finish, &recent)) {
    return nullptr;
  }
  // Never freed: another thread may be listening.
  set_log_source(new PythonLog(begin, finish, recent));
  Py_RETURN_NONE;
}

PyObject* set_capture_safe_lock(PyObject*, PyObject* lock) {
  return guarded([&]() -> PyObject* {
    Object acquire = checked(PyObject_GetAttrString(lock, "acquire"));
    Object release = checked(PyObject_GetAttrString(lock, "release"));
    // Never freed: another thread may hold it.
    set_capture_safe_lock(new PythonLock(acquire.release(), release.release()));
    Py_RETURN_NONE;
  });
}

PyObject* set_finder(PyObject*, PyObject* finder) {
  Py_INCREF(finder);  // never freed: an engine may be loaded at any time
  set_library_finder([finder] {
    WithGil gil;
    Object result(PyObject_CallNoArgs(finder));
    if (!result) {
      PyErr_WriteUnraisable(finder);
    }
  });
  Py_RETURN_NONE;
}

// Device indices come from PyTorch, so they are small ints.
PyObject* wait_for_turn(PyObject*, PyObject* device) {
  int const index = static_cast<int>(PyLong_AsLong(device));
  {
    WithoutGil released;
    take_turn(index);
  }
  Py_RETURN_NONE;
}

PyObject* end_turn(PyObject*, PyObject* device) {
  give_turn(static_cast<int>(PyLong_AsLong(device)));
  Py_RETURN_NONE;
}

PyMethodDef module_methods[] = {
    {"take_turn", wait_for_turn, METH_O, "take_turn(device): wait until this thread may queue work on a device."},
    {"give_turn", end_turn, METH_O, "give_turn(device): let others, if this thread does not come back at once."},
    {"set_capture_safe_lock", set_capture_safe_lock, METH_O, "set_capture_safe_lock(lock): held while an execution context is made."},
    {"set_library_finder", set_finder, METH_O, "finder() opens a TensorRT library where an engine needs one, if it can."},
    {"use_library", use_library, METH_O, "Open the TensorRT library at a path: (path, version number, layout)."},
    {"set_failure_factory", set_failure_factory, METH_O, "factory(kind, whole, text, messages) makes exceptions."},
    {"set_log", set_log, METH_VARARGS, "set_log(begin, finish, recent): where TensorRT's messages are read."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    "engine.runtime._native",
    "Engines called without the dispatcher.",
    -1,
    module_methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr};

}  // namespace
}  // namespace engine_runtime

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__native() {
  using namespace engine_runtime;
  Object module(PyModule_Create(&module_definition));
  Object type(PyType_FromSpec(&engine_spec));
  if (!module || !type || PyModule_AddObjectRef(module.get(), "NativeEngine", type.get()) < 0) {
    return nullptr;
  }
  return module.release();
}
