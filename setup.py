"""Packaging: the rules of the checkout's top folder travel inside the package as ``engine/_rules``."""

from pathlib import Path

from setuptools import find_packages, setup

RULES = [path.parent for path in sorted(Path("rules").rglob("*.rules"))]
FOLDERS = {"engine._rules" + ".".join(["", *folder.parts[1:]]): str(folder) for folder in RULES}

setup(
    packages=[*find_packages(include=["engine", "engine.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={"engine": ["py.typed", "dsl/*.lark"], **{name: ["*.rules"] for name in FOLDERS}},
)
