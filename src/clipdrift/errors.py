"""The base of every error that a user can cause or mend; its message is one line: what, where, what to do."""


class ClipdriftError(Exception):
    """Shown by the command line without a traceback."""
