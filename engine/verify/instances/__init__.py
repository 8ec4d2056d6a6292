"""Instances of rules, made from ``test`` lines."""

from engine.verify.instances.instance import Inapplicable, Instance, execute
from engine.verify.instances.synthesis import instance

__all__ = ["Inapplicable", "Instance", "execute", "instance"]
