"""The form in which networks compute sizes: what TensorRT can reason about, of expressions that are equal.

TensorRT's compiler follows sizes as expressions of its own.  Of ``x + (-x) % m``, a size padded to a multiple, it loses
track: with 1.6.1 of TensorRT-RTX a resize to such a size does not build ("Error during shape inference").  Of
``m * ((x + m - 1) // m)``, which is the same number, it does not.
"""

from __future__ import annotations

import sympy
from torch.utils._sympy import functions as symbolic

from engine.sizes import floordiv, is_real, mul, normal

_ROOT = symbolic.OpaqueUnaryFn_sqrt
_DIVISIONS = (symbolic.FloorDiv, symbolic.CleanDiv)
ROUNDINGS = (symbolic.CeilToInt, symbolic.FloorToInt, symbolic.TruncToInt)
_TRUE_DIVISIONS = (symbolic.FloatTrueDiv, symbolic.IntTrueDiv)
_REMAINDERS = (symbolic.Mod, symbolic.PythonMod, sympy.Mod)
# With factors of so many bits, products with sizes have fewer than the 53 of Python's floats.
_FEW_BITS = 20


def _is_root(number: sympy.Basic) -> bool:
    return isinstance(number, _ROOT) or (isinstance(number, symbolic.FloatPow) and number.args[1] == 0.5)


class WrittenSizes:
    """Expressions over sizes in that form, each worked out once.

    The form has the same value for all sizes of the symbols.  Expressions of numbers that need not be whole stay as
    they are: what holds of whole numbers need not hold of floats.
    """

    def __init__(self) -> None:
        self._known: dict[sympy.Basic, sympy.Basic] = {}

    def of(self, size: sympy.Basic) -> sympy.Basic:
        """The form of one expression."""
        if not size.args or is_real(size):
            return size
        known = self._known.get(size)
        if known is None:
            known = self._known[size] = self._form(size)
        return known

    def _form(self, size: sympy.Basic) -> sympy.Basic:
        if isinstance(size, symbolic.CeilToInt) and isinstance(size.args[0], symbolic.IntTrueDiv):
            # Right below 2 ** 52: no quotient of whole numbers is nearer to the next one than doubles are there.
            above, below = map(self.of, size.args[0].args)
            if _counts(below) and above.is_integer:
                return _ceiling(above, below)
        if isinstance(size, ROUNDINGS):
            whole = self._whole(size.args[0])
            if whole is not None:
                return whole
        if isinstance(size, ROUNDINGS) and isinstance(size.args[0], sympy.Mul):
            product = self._rounded_product(size)
            if product is not None:
                return product
        args = [self.of(arg) for arg in size.args]
        if any(new is not old for new, old in zip(args, size.args, strict=True)):
            size = size.func(*args)
        if isinstance(size, sympy.Add):
            return _without_remainders(size)
        if isinstance(size, _DIVISIONS) and _counts(size.args[1]) and _is_negative(size.args[0]):
            return sympy.Mul(-1, _ceiling(-size.args[0], size.args[1]))
        if isinstance(size, _REMAINDERS) and _counts(size.args[1]):
            return _plain_remainder(size)
        return size

    def _whole(self, number: sympy.Basic) -> sympy.Basic | None:
        """A real number that is whole at every step, as windows are counted: ``b * h * w / (h * w / 8 / 8)``.

        None where that is not seen.  Right below 2 ** 53, where doubles hold every whole number.
        """
        if number.is_Float:
            return sympy.Integer(int(number)) if float(number).is_integer() else None  # type: ignore[call-overload, arg-type]
        if isinstance(number, symbolic.ToFloat):
            return self._whole(number.args[0])
        if _is_root(number):
            # Of ``n ** 2``, where ``n`` is no less than 0: Python's root of a square is exact.
            square = self._whole(number.args[0])
            root = None if square is None else sympy.sqrt(square)
            return root if root is not None and root.is_integer and root.is_nonnegative else None
        if isinstance(number, _TRUE_DIVISIONS):
            above, below = map(self._whole, number.args)
            if above is None or below is None or below == 0:
                return None
            quotient = sympy.cancel(above / below)  # type: ignore[operator]
            # Whole for whole sizes: a polynomial without fractions.
            fractions = [factor for factor in quotient.atoms(sympy.Rational) if not factor.is_Integer]
            return None if fractions or quotient.as_numer_denom()[1] != 1 else quotient
        return self.of(number) if number.is_integer else None

    def _rounded_product(self, size: sympy.Basic) -> sympy.Basic | None:
        """``floor(1.5 * n)`` and the like by whole numbers; None where Python's floats may round on the way."""
        factor, rest = size.args[0].as_coeff_Mul()
        if not (factor.is_Float and isinstance(rest, symbolic.ToFloat) and rest.args[0].is_integer):
            return None
        above, below = float(factor).as_integer_ratio()
        if max(abs(above), below).bit_length() > _FEW_BITS:
            return None
        product = sympy.Mul(above, self.of(rest.args[0]))
        if below == 1:
            return product
        if isinstance(size, symbolic.CeilToInt):
            return _ceiling(product, sympy.Integer(below))
        if isinstance(size, symbolic.FloorToInt) or product.is_nonnegative:
            return _quotient(product, sympy.Integer(below))
        return None


def _counts(size: sympy.Basic) -> bool:
    """Whether a size is a number above zero."""
    return bool(size.is_Integer) and int(size) > 0  # type: ignore[call-overload]


def _is_negative(size: sympy.Basic) -> bool:
    """Whether every term but a number has a minus in front."""
    terms = [term for term in sympy.Add.make_args(size) if not term.is_number]  # type: ignore[arg-type]
    return bool(terms) and all(term.as_coeff_Mul()[0].is_negative for term in terms)


def _ceiling(above: sympy.Basic, below: sympy.Basic) -> sympy.Basic:
    """A quotient rounded up, without a negative number in it."""
    return sympy.sympify(floordiv(normal(sympy.Add(above, below, -1)), normal(below)))


def _without_remainders(total: sympy.Add) -> sympy.Basic:
    """A sum in which ``a % m`` is written as ``a - m * (a // m)`` wherever that leaves fewer terms."""
    terms = list(total.args)
    for term in terms:
        factor, remainder = term.as_coeff_Mul()
        if not isinstance(remainder, _REMAINDERS):
            continue
        value, divisor = remainder.args
        quotient = _quotient(value, divisor)
        written = sympy.Add(total - term, sympy.expand_mul(factor * value), _product(-factor, divisor, quotient))
        if len(sympy.Add.make_args(written)) < len(terms):
            return _without_remainders(written) if isinstance(written, sympy.Add) else written
    return total


def _quotient(value: sympy.Basic, divisor: sympy.Basic) -> sympy.Basic:
    if _counts(divisor) and _is_negative(value):
        return sympy.Mul(-1, _ceiling(sympy.Mul(-1, value), divisor))
    return sympy.sympify(floordiv(normal(value), normal(divisor)))


def _product(*factors: sympy.Basic) -> sympy.Basic:
    result: sympy.Basic = sympy.Integer(1)
    for factor in factors:
        result = sympy.sympify(mul(normal(result), normal(factor)))
    return result


def _plain_remainder(size: sympy.Basic) -> sympy.Basic:
    """``a % m`` without multiples of ``m`` in ``a``, and without remainders by ``m`` or a multiple of it."""
    value, divisor = size.args
    by = int(divisor)  # type: ignore[call-overload]
    terms = [_within(term, by) for term in sympy.Add.make_args(value)]  # type: ignore[arg-type]
    reduced = sympy.Add(*terms)
    if reduced == value:
        return size
    if reduced.is_Integer:
        return sympy.Integer(int(reduced) % by)
    written = symbolic.PythonMod(reduced, divisor)
    return _plain_remainder(written) if isinstance(written, _REMAINDERS) else written


def _within(term: sympy.Basic, divisor: int) -> sympy.Basic:
    factor, rest = term.as_coeff_Mul()
    if not (factor.is_Integer and rest.is_integer):
        return term
    if int(factor) % divisor == 0:
        return sympy.Integer(0)
    if isinstance(rest, _REMAINDERS) and _counts(rest.args[1]) and int(rest.args[1]) % divisor == 0:
        return sympy.expand_mul(factor * rest.args[0])
    return sympy.Integer(int(factor) % divisor) if rest == 1 else term


__all__ = ["ROUNDINGS", "WrittenSizes"]
