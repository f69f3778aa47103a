"""Where this wheel keeps the broker's binary. `streams.embedded` starts it; nothing here runs anything."""

from pathlib import Path


def binary_path() -> Path:
    """The broker's executable, an absolute path.

    Raises FileNotFoundError where the package was imported from its sources and never built.
    """
    path = Path(__file__).resolve().parent / "bin" / "touchstream-broker"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: install the built wheel (make setup)")
    return path
