"""The rules language: parsing, checking and loading ``.rules`` files."""
