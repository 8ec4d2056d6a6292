"""What a TextMate grammar without begin and end makes of a line: the leftmost match, of several the first pattern's."""

import json
import re


class Grammar:
    """The patterns of a grammar, in order."""

    def __init__(self, path):
        self.data = json.loads(path.read_text())
        self.rules = list(self._rules(self.data["patterns"]))

    def _rules(self, patterns):
        for pattern in patterns:
            if "include" in pattern:
                name = pattern["include"].removeprefix("#")
                inner = self.data["repository"][name]
                yield from self._rules(inner.get("patterns", [inner]))
            else:
                yield re.compile(pattern["match"]), pattern

    def scopes(self, line):
        """Stretches of a line with their scopes; what no pattern matches has none."""
        position = 0
        while position < len(line):
            found = [(m.start(), i, m) for i, (rule, _) in enumerate(self.rules) if (m := rule.search(line, position))]
            if not found:
                break
            start, index, match = min(found, key=lambda one: one[:2])
            pattern = self.rules[index][1]
            assert match.end() > start, pattern
            if "captures" in pattern:
                for group, capture in pattern["captures"].items():
                    yield match.group(int(group)), capture["name"]
            else:
                yield match.group(), pattern["name"]
            position = match.end()
