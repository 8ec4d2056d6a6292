"""Files that others may have written: reading them safely, and folders that processes share."""
