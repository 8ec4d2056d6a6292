"""The record of an engine: the list of fields that files and torch.classes.tensorrt.Engine hold."""
