"""The command line: ``engine compile``, ``coverage``, ``why``, ``trace``, ``tune``, ``inspect``, ``rules``.

Exit codes: 0 fine, 1 the model or a rule is at fault, 2 usage.
"""

from __future__ import annotations

import sys

import click

import engine
from engine.commands.late import LateGroup
from engine.errors import EngineError

_COMMANDS = {
    "compile": "engine.commands.compiling:compile_command",
    "coverage": "engine.commands.questions:coverage",
    "inspect": "engine.commands.compiling:inspect",
    "trace": "engine.commands.questions:trace",
    "tune": "engine.commands.tuning:tune",
    "why": "engine.commands.questions:why",
}
_OF_RULES = {
    "check": "engine.commands.rules.check:check",
    "doc": "engine.commands.rules.doc:doc",
    "fmt": "engine.commands.rules.fmt:fmt",
    "lint": "engine.commands.rules.lint:lint",
    "list": "engine.commands.rules.listing:list_command",
    "lsp": "engine.commands.rules.lsp:lsp",
    "mutate": "engine.commands.rules.searches:mutate",
    "verify": "engine.commands.rules.searches:verify",
}


@click.group(cls=LateGroup, late=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(engine.__version__, prog_name="engine")
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE",
    help="A module of yours that registers ops or host functions of rules; may be given several times.",
)  # fmt: skip
@click.pass_context
def cli(context: click.Context, modules: tuple[str, ...]) -> None:
    """Compile PyTorch models to TensorRT, by rules."""
    context.obj = modules
    if modules:
        from engine.commands.models import import_module

        for module in modules:
            import_module(module, "--import")


@cli.group(cls=LateGroup, late=_OF_RULES)
def rules() -> None:
    """List and check rules."""


def main() -> None:
    """Entry point of the ``engine`` command."""
    try:
        cli()
    except EngineError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
