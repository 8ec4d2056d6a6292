"""For authors of rules: ``RuleSet`` and the ``host`` decorator.

>>> import engine
>>> @engine.rules.host("double")
... def double(number: int) -> int:
...     return 2 * number

A rules file declares it with ``extern host.double(number: int) -> int``.
"""

from engine.dsl.host import host
from engine.dsl.ruleset import RuleSet
from engine.errors import Diagnostic, RuleError

__all__ = ["Diagnostic", "RuleError", "RuleSet", "host"]
