"""What stands between a science test and the stages that it builds."""

from __future__ import annotations

import warnings

import pytest

from persona_lib.errors import PreflightError
from persona_lib.plugin.fixtures import _building


def test_a_warning_does_not_end_a_run_and_is_shown(pytestconfig: pytest.Config) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")
        with _building(pytestconfig):
            warnings.warn("the disk is slow", UserWarning, stacklevel=1)
            for module in ("transformers.modeling_utils", "torch"):
                warnings.warn_explicit("old name", FutureWarning, "x.py", 1, module=module)
            warnings.warn_explicit("our own", FutureWarning, "x.py", 1, module="persona_lib.x")
        with pytest.raises(UserWarning, match="outside"):
            warnings.warn("outside", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["the disk is slow", "our own"]


def test_an_error_of_ours_fails_in_one_line(pytestconfig: pytest.Config) -> None:
    with (
        pytest.raises(pytest.fail.Exception, match=r"^PreflightError: missing: a GPU\. Buy one\.$"),
        _building(pytestconfig),
    ):
        raise PreflightError("a GPU", remedy="Buy one.")
