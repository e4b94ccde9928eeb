"""A page as PDF, printed by a browser without a window, or by weasyprint."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from uwc import progress
from uwc.io import remove, write_bytes

BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge"),
)
"""Names of browsers that print without a window."""
TIMEOUT = 60.0
"""Seconds after which a browser is stopped."""
HOW = "install Chromium, Chrome or Edge, or weasyprint: pip install 'uwc[pdf]'"


def write_pdf(page: Path, path: Path) -> bool:
    """Print a page to PDF by the first browser on the path, else by weasyprint.

    Without either a note says how to get one; a browser that fails or does not end is a warning. Then there is no file,
    also not an older one.

    Args:
        page: the HTML file.
        path: the PDF to write.

    Returns:
        Whether it was written.

    Raises:
        OSError: the PDF cannot be written.
    """
    remove(path)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    failed = ""
    if browser is not None:
        content, failed = _by_browser(browser, page)
        if content:
            write_bytes(path, content)
            return True
    if find_spec("weasyprint") is not None:
        content, why = _by_weasyprint(page)
        if content:
            write_bytes(path, content)
            return True
        failed = f"{failed}; {why}" if failed else why
    if failed:
        progress.warn(f"no {path.name}: {failed}; print {page.name} from a browser")
    else:
        progress.note(f"no {path.name}: there is nothing to print it with; {HOW}, or print {page.name} from a browser")
    return False


def _by_browser(browser: str, page: Path) -> tuple[bytes, str]:
    """The PDF, or why there is none."""
    name = Path(browser).name
    with tempfile.TemporaryDirectory(prefix="uwc-pdf-", ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "page.pdf"
        command = [browser, "--headless", "--disable-gpu", "--no-first-run", "--disable-extensions"]
        command += ["--disable-background-networking", "--disable-dev-shm-usage", "--no-pdf-header-footer"]
        command += [f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")
        try:
            process = subprocess.Popen(
                [*command, page.resolve().as_uri()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return b"", f"{name} cannot be started ({error.strerror or error})"
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return b"", f"{name} did not end within {TIMEOUT:g} s"
        finally:
            _stop(process)
        content = made.read_bytes() if made.is_file() else b""
        if status != 0 or not content.startswith(b"%PDF"):
            return b"", f"{name} printed nothing (exit status {status})"
        return content, ""


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a browser, if it has not ended, and all that it started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _by_weasyprint(page: Path) -> tuple[bytes, str]:
    """The PDF, or why there is none."""
    try:
        from weasyprint import HTML

        content: bytes = HTML(filename=str(page)).write_pdf()
    except Exception as error:  # also OSError, where its libraries are missing
        return b"", f"weasyprint failed ({' '.join(str(error).split())[:150]})"
    return content, ""
