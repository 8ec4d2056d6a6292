"""``engine rules lsp``: the language server of rules files."""

from __future__ import annotations

import click

import engine


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Listen on this port of this machine, instead of stdin.")
def lsp(port: int | None) -> None:
    """Serve editors by the Language Server Protocol, on stdin and stdout.

    Diagnostics while typing, hover, definitions, references, completion, formatting, an outline, and test lines that
    run at a click. `engine --import MODULE rules lsp` knows the ops of MODULE. Needs pygls: pip install "engine[lsp]".
    """
    try:
        from engine.language_server.server import create
    except ModuleNotFoundError as error:
        if error.name not in ("pygls", "lsprotocol"):
            raise
        raise engine.EngineError('rules lsp needs pygls: pip install "engine[lsp]"') from error
    server = create()
    if port is None:
        server.start_io()
    else:
        server.start_tcp("127.0.0.1", port)


__all__ = ["lsp"]
