"""Files that are whole or absent, and reading them only as they were written."""
