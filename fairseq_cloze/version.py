"""Version of this package, apart from its face so that every room can name it."""

__version__ = "0.1.0"
