"""Files and folders that are in a data set by accident."""

JUNK = ("__macosx", "thumbs.db", "desktop.ini")


def left_out(name: str) -> str | None:
    """Return why a file or folder of such a name is no part of a data set, or None."""
    if name.startswith("."):
        return "is hidden"
    return "is left by an operating system" if name.lower() in JUNK else None
