"""Jars of the broker and of the Java peers: fetched once by Maven, compiled once a change, kept in `.cache/bench`."""

import hashlib
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = ROOT / ".cache" / "bench"


def class_path(name: str) -> str:
    """Class path of `peers/<name>/pom.xml`, with our own classes first where the folder has sources."""
    pom = HERE / "peers" / name / "pom.xml"
    jars = CACHE / "jars" / f"{name}-{_digest([pom])}"
    if not jars.exists():
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}.part"]
        subprocess.run(["mvn", "-q", "-B", "-f", str(pom), *goal], check=True)
        Path(f"{jars}.part").rename(jars)
    return _compiled(name, f"{jars}/*")


def _compiled(name: str, jars: str) -> str:
    own = sorted((HERE / "peers" / name).glob("*.java"))
    if not own:
        return jars
    sources = sorted((HERE / "peers" / "java").glob("*.java")) + own
    classes = CACHE / "classes" / f"{name}-{_digest(sources)}"
    if not classes.exists():
        part = Path(f"{classes}.part")
        part.mkdir(parents=True, exist_ok=True)
        subprocess.run(["javac", "-nowarn", "-d", str(part), "-cp", jars, *map(str, sources)], check=True)
        part.rename(classes)
    return f"{classes}:{jars}"


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()[:12]


def quix_python() -> str:
    """Interpreter of the virtual environment that Quix Streams has to itself (its pins differ from ours)."""
    wanted = HERE / "peers" / "quix-requirements.txt"
    home = CACHE / f"quix-{_digest([wanted])}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        uv = str(ROOT / ".venv" / "bin" / "uv")
        subprocess.run([uv, "venv", "-q", "--clear", str(home)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), "-r", str(wanted)], check=True)
        (home / "ready").touch()
    return str(python)
