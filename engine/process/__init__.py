"""What the process is in, which a caller may have set, and what is changed of it for a while."""
