"""What the names of files and folders of a data set say."""

import os

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm"),
)
JUNK = ("__macosx", "thumbs.db", "desktop.ini")


def is_image(name: str) -> bool:
    """Return whether a file of such a name is taken for an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def left_out(name: str) -> str | None:
    """Return why a file or folder of such a name is no part of a data set, or None."""
    if name.startswith("."):
        return "is hidden"
    return "is left by an operating system" if name.lower() in JUNK else None
