"""A long file of rules, as someone has who works in one."""

_RULE = """\
lower rule_{i}
  match aten.gelu(x: f32[_, {i}], approximate="none")
  when  rank(x) == 2, dim(x, 0) > {i}
  let   y = aten.mul.Tensor(x, {i}.5)
  emit  aten.where.self(aten.gt.Scalar(x, 0.0), y, aten.neg(y))
  test  x: f32[{n}, {i}]
  reject x: f32[1, {i}]

"""
# Line and column, from 0, in the number that a rule in the middle multiplies by.
PLACE = (243, 33)


def many_rules(count):
    """A file of this many rules of eight lines."""
    return "".join(_RULE.replace("{i}", str(i)).replace("{n}", str(i + 1)) for i in range(1, count + 1))
