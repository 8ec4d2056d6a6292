"""Constants of a graph as expressions over the model's parameters, so that new weights can be loaded."""
