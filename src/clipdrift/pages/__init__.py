"""Web pages, each one self-contained file. They compute nothing."""
