"""The language server of rules files: `engine rules lsp`."""
