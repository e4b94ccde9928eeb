"""Environments other than `.venv`: further Pythons, and the built wheel. `nox -l` lists the sessions."""

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
ROOT = Path(__file__).parent
PINNED = ("-c", str(ROOT / "constraints.txt"))


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The tests with one Python; arguments after -- are pytest's."""
    session.install(*PINNED, "-e", ".[dev]")
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "logical", "--dist", "loadfile"]))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it alone in an empty environment, and run the quick start from an empty folder."""
    session.install("build")
    built = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--wheel", "--outdir", str(built), str(ROOT))
    [file] = built.glob("*.whl")
    session.run("python", "-m", "venv", "--clear", str(built / "empty"), external=True)
    programs = built / "empty" / ("Scripts" if (built / "empty" / "Scripts").exists() else "bin")
    session.run(str(programs / "python"), "-m", "pip", "install", *PINNED, str(file), external=True)
    folder = built / "folder"
    folder.mkdir()
    with session.chdir(folder):
        session.run(str(programs / "uwc"), "doctor", external=True)
        session.run(str(programs / "uwc"), "study", "run", "quickstart", external=True)
    if not (folder / "runs" / "quickstart" / "report.html").exists():
        session.error("the quick start left no report")
