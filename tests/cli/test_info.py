"""`univfast info`: what is in use, and why no device is."""

from __future__ import annotations

import pytest
import torch

from support.command import run
from univfast import native


def test_info_says_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"univfast", "torch", "simd", "threads", "cuda"} <= set(lines)
    assert lines["torch"] == torch.__version__


def test_info_says_of_a_build_without_cuda_only_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "cuda_built_with", lambda: None)
    assert run("info") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "cuda      not in this build"


def test_info_shows_each_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = [
        native.CudaDevice("Large", 9, 0, 141 * 10**9),
        native.CudaDevice("Small", 8, 6, 10**9),
    ]
    monkeypatch.setattr(native, "cuda_built_with", lambda: "13.0 for sm_80 ptx_80")
    monkeypatch.setattr(native, "cuda_devices", lambda: devices)
    monkeypatch.setattr(native, "cuda_unavailable", lambda: "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert run("info") == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "cuda      13.0 for sm_80 ptx_80",
        "device 0  Large, compute capability 9.0, 141 GB",
        "device 1  Small, compute capability 8.6, 1 GB",
    ]


def test_info_says_why_no_device_can_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "cuda_built_with", lambda: "13.0 for sm_80 ptx_80")
    monkeypatch.setattr(native, "cuda_devices", list)
    monkeypatch.setattr(native, "cuda_unavailable", lambda: "no driver")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert run("info") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "cuda      13.0 for sm_80 ptx_80; no device can be used, for torch is not a CUDA build",
        "devices   none can be used: no driver",
    ]
