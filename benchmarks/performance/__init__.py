"""This package beside what a user could take instead: time to the first result, memory, and time of a call.

    python -m benchmarks.performance --json h200.json [--models ..] [--backends ..] [--dtypes float16,bfloat16]
    python -m benchmarks.performance --page h200.json     # docs/performance.md and its plots, from what was measured
    python -m benchmarks.performance --device cpu --small # that it runs; these are no speeds of engines

Every model goes through every backend in a process of its own.  ``--at-once`` of them compile at the same time; then
each is timed alone, while none compiles.  What fails is a row with its words.  The rows say:

    export, ours, build, load, first   seconds: torch.export; the backend's own work; TensorRT's or Inductor's build;
                                       loading the engine; the first call.  ``total`` is from the exported program to
                                       the first result (from the model, for what does not take programs)
    host, device                       peak memory over what the process had after the export, in weights of the model;
                                       that of the device only where one compiles at a time
    ms, p99, graph_ms, graph_p99       a call: median of back-to-back calls, and the 99th percentile of single calls
                                       that are waited for; without and with CUDA graphs
    engines, outside                   engines, and nodes that PyTorch runs beside them
    error                              largest difference to float32 by the largest value, beside ``eager_error``, that
                                       of eager PyTorch in the same dtype

The page and its plots are only written from a file of measurements; there are none in the repository yet.
"""
