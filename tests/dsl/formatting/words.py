"""Rules files in other layouts: the words as they are, the space between them not."""

import re

# Words, strings and comments; what stands together without a space may also be apart, but for these.
_WORD = re.compile(
    r'#[^\n]*|"[^"\n]*"|\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|'
    r"(?:[a-z_]\w*)(?:\.[A-Za-z_]\w*)+|\|\s*-1\b|not\s+in\b|is\s+not\b|\w+|\+\+|//|->|:=|\.\.|[=!<>]=|\S"
)


def comments_of(text):
    return [match.rstrip() for match in _WORD.findall(text) if match.startswith("#")]


def scattered(text, generator, chance, blank=True):
    """The text with a line break between two words with some chance, else a space where one may be.

    Comments keep their lines, and so do the lines before and behind them, that they belong to the same word.
    """
    out = []
    for line in text.split("\n"):
        found = list(_WORD.finditer(line))
        if not found:
            if blank:
                out.append("\n")
            continue
        if found[-1].group().startswith("#"):
            out.append(f"\n{line}\n")
            continue
        for before, word in zip([None, *found], found, strict=False):
            touching = before is not None and before.end() == word.start()
            apart = before is not None and re.match(r"\w", before.group()[-1]) and re.match(r"\w", word.group()[0])
            if before is None or (not touching or apart or generator.random() < 0.5):
                out.append("\n" + " " * generator.randrange(9) if generator.random() < chance else " ")
            out.append(word.group())
        out.append(" " if chance < 0.1 and generator.random() > chance else "\n")
    return "".join(out) if blank else re.sub(r"\n\s*\n", "\n", "".join(out))
