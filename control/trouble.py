"""Shell: what the system refuses us, in a line for people."""

import sqlite3

TROUBLE = (OSError, sqlite3.Error)


def describe_trouble(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, sqlite3.Error):
        return f"the database can't be used: {error}"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
