"""How torch is made to run: threads, determinism, and which warnings are silenced."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from persona_lib.errors import SpecError
from persona_lib.runtime import device_kind, prepare_torch


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave torch and the environment as they were."""
    monkeypatch.delenv("FLATLAND_THREADS", raising=False)
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    threads = torch.get_num_threads()
    enabled = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(enabled, warn_only=lenient)


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


@pytest.mark.parametrize("threads", ["1", "3", " 2 "])
def test_threads_are_as_asked_for(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLAND_THREADS", threads)
    prepare_torch()
    assert torch.get_num_threads() == int(threads)


@pytest.mark.parametrize("unset", [None, "", "  "])
def test_threads_are_left_alone_unless_asked_for(
    unset: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unset is not None:
        monkeypatch.setenv("FLATLAND_THREADS", unset)
    torch.set_num_threads(2)
    prepare_torch()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", ["two", "0", "-1", "1.5", "1e3", "²"])
def test_threads_that_are_no_number_are_refused(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATLAND_THREADS", threads)
    with pytest.raises(SpecError, match="FLATLAND_THREADS: expected an integer >= 1, got") as error:
        prepare_torch()
    assert error.value.value == threads
    assert "unset it" in error.value.remedy


@pytest.mark.parametrize(("gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_kernels_are_deterministic_strictly_on_a_cpu_only(
    gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, gpu=gpu)
    assert prepare_torch() == device_kind(torch) == device
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() is gpu


def nondeterministic() -> None:
    """An operation that has no deterministic kernel on any device."""
    torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))


def test_a_kernel_without_deterministic_variant_is_an_error_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, gpu=False)
    prepare_torch()
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        nondeterministic()


def test_on_a_gpu_it_runs_in_silence_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, gpu=True)
    warnings.simplefilter("error")
    prepare_torch()
    nondeterministic()
    # What torch says of fused attention's backward pass, which needs a GPU to be heard.
    warnings.warn(
        "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly "
        "enable determinism call torch.use_deterministic_algorithms(True, warn_only=False).",
        UserWarning,
        stacklevel=1,
    )


def test_other_warnings_are_not_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpu=True)
    warnings.simplefilter("error")
    prepare_torch()
    for message in ("the loss is not finite", "an implementation is not deterministic"):
        with pytest.raises(UserWarning, match=message):
            warnings.warn(message, UserWarning, stacklevel=1)
