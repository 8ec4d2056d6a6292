"""Cache folders of a test's own that share the rules of all tests: what is not about rules need not read them again."""

import os
from pathlib import Path


def with_rules(folder):
    """Make a cache folder that is empty but for the checked rules, which it has in common with the other tests."""
    common = Path(os.environ["ENGINE_TEST_CACHE"]) / "rules"
    common.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True)
    (folder / "rules").symlink_to(common)
    return folder
