"""The server: what an editor asks, answered by the other files of this package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from lsprotocol import types
from pygls import uris
from pygls.lsp.server import LanguageServer
from pygls.workspace import PositionCodec

import engine
from engine.dsl import tree
from engine.dsl.formatting.formatter import formatted
from engine.errors import RuleError, Span
from engine.language_server.buffer import Buffer
from engine.language_server.completion import complete
from engine.language_server.diagnose import diagnose
from engine.language_server.hover import hover
from engine.language_server.line_runner import Outcome, lines_of, run_line
from engine.language_server.navigation import definition, references
from engine.language_server.project import Project
from engine.linter.codes import CODES
from engine.linter.finding import Finding

RUN_LINE = "engine.runTestLine"
"""The command of a code lens: the URI of a file, and the line of a test counted from 1."""

# Keys that follow each other so closely are one change.
_PAUSE = 0.05
_KINDS = {
    "op": types.CompletionItemKind.Method,
    "layer": types.CompletionItemKind.Class,
    "argument": types.CompletionItemKind.Property,
    "member": types.CompletionItemKind.EnumMember,
    "macro": types.CompletionItemKind.Function,
    "pattern": types.CompletionItemKind.Interface,
    "function": types.CompletionItemKind.Function,
    "type": types.CompletionItemKind.TypeParameter,
    "rule": types.CompletionItemKind.Reference,
    "clause": types.CompletionItemKind.Keyword,
}


class Server(LanguageServer):
    """Files, the diagnostics that wait, and the outcomes of test lines."""

    def __init__(self) -> None:
        super().__init__("engine-rules", engine.__version__)
        self.project = Project()
        self.waiting: dict[str, asyncio.Task[None]] = {}
        self.outcomes: dict[str, tuple[str, dict[int, Outcome]]] = {}  # by path: the text that was run

    def buffer(self, uri: str) -> Buffer:
        """A file as it is now."""
        document = self.workspace.get_text_document(uri)
        return self.project.put(document.path or uri, document.source.replace("\r\n", "\n"))

    # ------------------------------------------------------------------------------------ places

    def place(self, buffer: Buffer, position: types.Position) -> tuple[int, int]:
        """A line and column that count from 1, for a place as the client counts."""
        lines = [line + "\n" for line in buffer.lines]
        own = self._codec.position_from_client_units(lines, position)
        return own.line + 1, own.character + 1

    def range(self, buffer: Buffer | None, span: Span) -> types.Range:
        """A span as the client counts."""
        start = types.Position(max(0, span.line - 1), max(0, span.column - 1))
        end = types.Position(max(0, span.end_line - 1), max(0, span.end_column - 1))
        whole = types.Range(start, end)
        if buffer is None:
            return whole
        lines = [line + "\n" for line in buffer.lines]
        return self._codec.range_to_client_units(lines, whole)

    def location(self, span: Span) -> types.Location:
        """A span in any file."""
        known = {one.path: one for one in (*self.project.builtin, *self.project.open.values())}
        return types.Location(uris.from_fs_path(span.file) or span.file, self.range(known.get(span.file), span))

    @property
    def _codec(self) -> PositionCodec:
        return self.workspace.position_codec

    # ------------------------------------------------------------------------------------ diagnostics

    def changed(self, uri: str, *, pause: float = _PAUSE, saved: bool = False) -> None:
        """Look at a file again, once no key has been pressed for a moment."""
        task = self.waiting.pop(uri, None)
        if task is not None:
            task.cancel()
        self.waiting[uri] = asyncio.ensure_future(self._publish(uri, pause, saved))

    async def _publish(self, uri: str, pause: float, saved: bool) -> None:
        await asyncio.sleep(pause)
        document = self.workspace.get_text_document(uri)
        buffer = self.buffer(uri)
        steps = diagnose(buffer, self.project, saved=saved)
        while True:
            # A step is short, but for built-in files; others are answered between two of them.
            try:
                findings = await asyncio.get_running_loop().run_in_executor(None, next, steps, None)
            except Exception as error:  # a fault of ours must not end the session, and must be seen
                said = f"looking at {buffer.path} failed: {type(error).__name__}: {error}"
                self.window_log_message(types.LogMessageParams(types.MessageType.Error, said))
                return
            if findings is None:
                return
            self.text_document_publish_diagnostics(
                types.PublishDiagnosticsParams(
                    uri, [self._diagnostic(buffer, one) for one in findings], document.version
                )
            )

    def _diagnostic(self, buffer: Buffer, finding: Finding) -> types.Diagnostic:
        code = CODES[finding.code]
        text = f"{finding.message}\n{finding.hint}" if finding.hint else finding.message
        related = None
        if finding.related is not None:
            span, label = finding.related
            related = [types.DiagnosticRelatedInformation(self.location(span), label)]
        return types.Diagnostic(
            range=self.range(buffer, _first_line(finding.span, buffer)),
            message=text,
            severity=types.DiagnosticSeverity.Error if finding.error else types.DiagnosticSeverity.Warning,
            code=code.code if finding.code == "R001" else f"{code.code} {code.name}",
            source="engine",
            related_information=related,
            tags=[types.DiagnosticTag.Unnecessary] if code.name in ("dead", "unread", "needless") else None,
        )


def _first_line(span: Span, buffer: Buffer) -> Span:
    """Of what goes over several lines, the first: editors underline all of it otherwise."""
    if span.end_line == span.line:
        return span
    return Span(span.file, span.line, span.column, span.line, len(buffer.lines[span.line - 1]) + 1)


def create() -> Server:
    """A server that is ready to be started."""
    server = Server()

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    async def opened(params: types.DidOpenTextDocumentParams) -> None:
        server.changed(params.text_document.uri, pause=0.0, saved=True)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    async def edited(params: types.DidChangeTextDocumentParams) -> None:
        server.changed(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def saved(params: types.DidSaveTextDocumentParams) -> None:
        server.changed(params.text_document.uri, pause=0.0, saved=True)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    async def closed(params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        task = server.waiting.pop(uri, None)
        if task is not None:
            task.cancel()
        server.project.close(uris.to_fs_path(uri) or uri)
        server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hovered(params: types.HoverParams) -> types.Hover | None:
        buffer = server.buffer(params.text_document.uri)
        word = buffer.word_at(*server.place(buffer, params.position))
        said = None if word is None else hover(word, buffer, server.project)
        if word is None or said is None:
            return None
        return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, said), server.range(buffer, word.span))

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def defined(params: types.DefinitionParams) -> types.Location | None:
        buffer = server.buffer(params.text_document.uri)
        word = buffer.word_at(*server.place(buffer, params.position))
        found = None if word is None else definition(word, buffer, server.project)
        return None if found is None else server.location(found)

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    def referred(params: types.ReferenceParams) -> list[types.Location]:
        buffer = server.buffer(params.text_document.uri)
        word = buffer.word_at(*server.place(buffer, params.position))
        if word is None:
            return []
        found = references(word, buffer, server.project)
        if not params.context.include_declaration:
            own = definition(word, buffer, server.project)
            found = [span for span in found if span != own]
        return [server.location(span) for span in found]

    @server.feature(
        types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=[".", "(", ",", "=", ":", " "])
    )
    def completed(params: types.CompletionParams) -> types.CompletionList:
        buffer = server.buffer(params.text_document.uri)
        line, column = server.place(buffer, params.position)
        typed = buffer.lines[line - 1][: column - 1]
        start = len(typed) - len(typed[_tail(typed) :])
        span = Span(buffer.path, line, start + 1, line, column)
        items = [
            types.CompletionItem(
                label=one.label,
                kind=_KINDS.get(one.kind, types.CompletionItemKind.Variable),
                detail=one.detail or None,
                documentation=types.MarkupContent(types.MarkupKind.Markdown, one.doc) if one.doc else None,
                text_edit=types.TextEdit(server.range(buffer, span), one.label),
                sort_text=f"{0 if one.kind in ('argument', 'member') else 1 if one.kind == 'name' else 2}{one.label}",
            )
            for one in complete(buffer, line, column, server.project)
        ]
        return types.CompletionList(is_incomplete=False, items=items)

    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def format_(params: types.DocumentFormattingParams) -> list[types.TextEdit] | None:
        buffer = server.buffer(params.text_document.uri)
        try:
            text = formatted(buffer.text, buffer.path)
        except RuleError as error:
            first = f"not formatted: {error.diagnostics[0].message}"
            server.window_show_message(types.ShowMessageParams(types.MessageType.Warning, first))
            return None
        if text == buffer.text:
            return []
        whole = types.Range(types.Position(0, 0), types.Position(len(buffer.lines), 0))
        return [types.TextEdit(whole, text)]

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def outlined(params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
        buffer = server.buffer(params.text_document.uri)
        return [
            types.DocumentSymbol(
                name=item.name,
                detail=getattr(item, "kind", "") or _SYMBOLS[type(item)][1],
                kind=_SYMBOLS[type(item)][0],
                range=server.range(buffer, item.span),
                selection_range=server.range(buffer, _first_line(item.span, buffer)),
            )
            for item in buffer.items
        ]

    @server.feature(types.TEXT_DOCUMENT_CODE_LENS, types.CodeLensOptions(resolve_provider=False))
    def lenses(params: types.CodeLensParams) -> list[types.CodeLens]:
        buffer = server.buffer(params.text_document.uri)
        text, outcomes = server.outcomes.get(buffer.path, ("", {}))
        found = []
        for _, test in lines_of(buffer):
            outcome = outcomes.get(test.span.line) if text == buffer.text else None
            title = (
                "run" if outcome is None else f"{'agrees' if outcome.good else 'wrong'}: {_short(outcome)}; run again"
            )
            command = types.Command(title, RUN_LINE, arguments=[params.text_document.uri, test.span.line])
            found.append(types.CodeLens(server.range(buffer, _first_line(test.span, buffer)), command))
        return found

    @server.command(RUN_LINE)
    async def run(uri: str, line: int) -> dict[str, object] | None:
        buffer = server.buffer(uri)
        loop = asyncio.get_running_loop()
        outcome = await loop.run_in_executor(None, run_line, buffer, int(line), server.project)
        if outcome is None:
            server.window_show_message(
                types.ShowMessageParams(types.MessageType.Warning, f"no test line begins on line {line}")
            )
            return None
        text, outcomes = server.outcomes.get(buffer.path, ("", {}))
        server.outcomes[buffer.path] = (
            buffer.text,
            {**(outcomes if text == buffer.text else {}), outcome.line: outcome},
        )
        kind = types.MessageType.Info if outcome.good else types.MessageType.Error
        where = f"{Path(buffer.path).name}:{outcome.line}"
        server.window_show_message(types.ShowMessageParams(kind, f"{where}: {outcome.said}"))
        capabilities = server.client_capabilities.workspace
        if capabilities is not None and capabilities.code_lens is not None and capabilities.code_lens.refresh_support:
            server.workspace_code_lens_refresh(None)
        return {"line": outcome.line, "good": outcome.good, "said": outcome.said}

    return server


def _tail(text: str) -> int:
    """Where the word at the end of a text begins."""
    start = len(text)
    while start and (text[start - 1].isalnum() or text[start - 1] in "_."):
        start -= 1
    return start


def _short(outcome: Outcome) -> str:
    first: Sequence[str] = outcome.said.splitlines()
    return first[0] if first else ""


_SYMBOLS: dict[type, tuple[types.SymbolKind, str]] = {
    tree.RuleItem: (types.SymbolKind.Event, "rule"),
    tree.Macro: (types.SymbolKind.Function, "macro"),
    tree.PatternItem: (types.SymbolKind.Interface, "pattern"),
    tree.Extern: (types.SymbolKind.Function, "host function"),
    tree.LayerItem: (types.SymbolKind.Class, "layer"),
}

__all__ = ["RUN_LINE", "Server", "create"]
