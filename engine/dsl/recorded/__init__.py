"""What PyTorch says of its ops and dtypes, kept in the cache: rules are checked without importing it."""
