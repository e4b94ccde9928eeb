"""Lines of libraries that are left out, and only these."""

import logging
import warnings

import pytest

from uwc.cli.main import silence


def test_known_lines_are_left_out_and_others_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with warnings.catch_warnings(record=True) as shown, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        silence()
        library.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        library.warning("out of memory")
        warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("the loss is not finite", UserWarning, stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["out of memory"]
    assert [str(warning.message) for warning in shown] == ["the loss is not finite"]
