"""How torch is made to run: threads, determinism, and which warnings are silenced."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from persona_lib.device import (
    choose_device,
    device_kind,
    only_device,
    prepare_torch,
    recorded_passes,
)
from persona_lib.errors import SpecError


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave torch and the environment as they were."""
    for name in ("FLATLAND_THREADS", "FLATLAND_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    threads = torch.get_num_threads()
    enabled = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(enabled, warn_only=lenient)


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


@pytest.mark.parametrize(
    ("text", "threads"), [("1", 1), ("3", 3), (" 2 ", 2), (None, 2), ("", 2), ("  ", 2)]
)
def test_threads_are_as_asked_for_or_left_alone(
    text: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv("FLATLAND_THREADS", text)
    torch.set_num_threads(2)
    prepare_torch()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", ["two", "0", "-1", "1.5", "1e3", "²"])
def test_threads_that_are_no_number_are_refused(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATLAND_THREADS", threads)
    with pytest.raises(SpecError, match="FLATLAND_THREADS: expected an integer >= 1, got") as error:
        prepare_torch()
    assert error.value.value == threads
    assert "unset it" in error.value.remedy


@pytest.mark.parametrize(
    ("text", "wanted"), [(None, True), ("", True), ("1", True), (" 0 ", False), ("0", False)]
)
def test_passes_are_recorded_unless_the_user_wants_none(
    text: str | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLATLAND_RECORDED_PASSES", raising=False)
    if text is not None:
        monkeypatch.setenv("FLATLAND_RECORDED_PASSES", text)
    assert recorded_passes() is wanted


def test_another_value_about_recorded_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLAND_RECORDED_PASSES", "off")
    with pytest.raises(SpecError, match="FLATLAND_RECORDED_PASSES: expected 0 or 1, got 'off'"):
        recorded_passes()


@pytest.mark.parametrize(("gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_kernels_are_deterministic_strictly_on_a_cpu_only(
    gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, gpu=gpu)
    assert prepare_torch() == device_kind(torch) == device
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() is gpu
    assert torch.utils.deterministic.fill_uninitialized_memory is not gpu
    if not gpu:
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            nondeterministic()


def nondeterministic() -> None:
    """An operation that has no deterministic kernel on any device."""
    torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))


def test_on_a_gpu_it_runs_in_silence_and_other_warnings_are_heard(
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
    for message in ("the loss is not finite", "an implementation is not deterministic"):
        with pytest.raises(UserWarning, match=message):
            warnings.warn(message, UserWarning, stacklevel=1)


# ---- devices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "worker", "gpus", "device"),
    [
        # Nobody asks: the first GPU, or the CPU where there is none.
        (None, None, 0, "cpu"),
        (None, None, 1, "cuda:0"),
        ("", None, 4, "cuda:0"),
        ("  ", "master", 4, "cuda:0"),
        # Workers take the GPUs in turn.
        (None, "gw0", 0, "cpu"),
        (None, "gw5", 1, "cuda:0"),
        (None, "gw0", 2, "cuda:0"),
        (None, "gw1", 2, "cuda:1"),
        (None, "gw2", 2, "cuda:0"),
        (None, "gw11", 4, "cuda:3"),
        # A wish goes before the turn.
        ("cpu", None, 2, "cpu"),
        ("cpu", "gw1", 2, "cpu"),
        ("cpu", None, 0, "cpu"),
        ("cuda", "gw1", 2, "cuda:0"),
        (" cuda:1 ", "gw0", 2, "cuda:1"),
        ("cuda:0", None, 1, "cuda:0"),
    ],
)
def test_the_device_is_chosen(
    wanted: str | None, worker: str | None, gpus: int, device: str
) -> None:
    assert choose_device(wanted, worker, gpus) == device


@pytest.mark.parametrize(
    ("wanted", "gpus", "bound"),
    [
        ("cuda:2", 2, "cpu, or cuda:0 to cuda:1"),
        ("cuda", 0, "cpu (torch sees no GPU here)"),
        ("cuda:0", 0, "cpu (torch sees no GPU here)"),
        ("gpu", 1, "cpu, or cuda:0 to cuda:0"),
        ("cuda:-1", 1, "cpu, or cuda:0 to cuda:0"),
        ("cuda:\u0661", 2, "cpu, or cuda:0 to cuda:1"),
        ("CUDA:0", 1, "cpu, or cuda:0 to cuda:0"),
        ("1", 2, "cpu, or cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_not_there_is_refused(wanted: str, gpus: int, bound: str) -> None:
    with pytest.raises(SpecError, match="FLATLAND_DEVICE: expected") as error:
        choose_device(wanted, "gw0", gpus)
    assert (error.value.bound, error.value.value) == (bound, wanted)
    assert "unset it" in error.value.remedy


@pytest.mark.parametrize(
    ("visible", "index", "alone"),
    [
        (None, 1, "1"),
        ("3,1", 0, "3"),
        ("3, 1", 1, "1"),
        ("GPU-aa,GPU-bb", 1, "GPU-bb"),
    ],
)
def test_one_of_the_visible_gpus_is_left(visible: str | None, index: int, alone: str) -> None:
    assert only_device(visible, index) == alone


class Driver:
    """CUDA as a process sees it: the variable counts until the driver has started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gpus: int, started: bool) -> None:
        self.gpus = gpus
        self.started = gpus if started else None
        monkeypatch.setattr(torch.cuda, "device_count", self.count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.count() > 0)
        monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", self.start, raising=False)

    def count(self) -> int:
        if self.started is not None:
            return self.started
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return self.gpus if visible is None else len([v for v in visible.split(",") if v])

    def start(self) -> int:
        self.started = self.count()
        return self.started


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are not set, and are put back afterwards."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "")
    monkeypatch.setenv("FLATLAND_DEVICE", "")
    for name in ("CUDA_VISIBLE_DEVICES", "PYTEST_XDIST_WORKER", "FLATLAND_DEVICE"):
        del os.environ[name]


@pytest.mark.usefixtures("visible")
@pytest.mark.parametrize(
    ("environment", "left", "device"),
    [
        ({}, "0", "cuda"),
        ({"PYTEST_XDIST_WORKER": "gw3"}, "1", "cuda"),
        ({"PYTEST_XDIST_WORKER": "gw1", "CUDA_VISIBLE_DEVICES": "6,4"}, "4", "cuda"),
        ({"FLATLAND_DEVICE": "cuda:1"}, "1", "cuda"),
        ({"FLATLAND_DEVICE": "cpu", "PYTEST_XDIST_WORKER": "gw1"}, "", "cpu"),
    ],
)
def test_a_process_sees_its_own_gpu_alone_and_keeps_it(
    environment: dict[str, str], left: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Driver(monkeypatch, gpus=2, started=False)
    os.environ.update(environment)
    for _ in range(2):  # every stage asks again, and so do child processes
        assert prepare_torch() == device_kind(torch) == device
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left


@pytest.mark.usefixtures("visible")
def test_a_single_gpu_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, gpus=1, started=True)
    os.environ["PYTEST_XDIST_WORKER"] = "gw1"
    assert prepare_torch() == "cuda"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("visible")
def test_a_device_that_is_asked_for_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, gpus=2, started=True)
    assert prepare_torch() == "cuda"  # the first one is the current one anyway
    for wanted in ("cuda:1", "cpu"):
        os.environ["FLATLAND_DEVICE"] = wanted
        with pytest.raises(SpecError, match="FLATLAND_DEVICE: expected the device that CUDA was"):
            prepare_torch()
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
