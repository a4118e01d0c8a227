"""Files for ``torch.load``: equal values give equal bytes, and no file runs code or is believed when it is damaged."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.torch_files import read_torch, tensor, write_torch
from schemas.errors import ReleaseError

VALUES = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def _value() -> dict[str, object]:
    return {"latent": tensor(VALUES, "bfloat16"), "frame_ids": [0, 3, 6], "text": "öffne", "fps": 5}


def test_what_is_written_is_read_by_torch_itself(tmp_path: Path) -> None:
    write_torch(tmp_path / "a.pth", _value())
    read = torch.load(tmp_path / "a.pth", weights_only=True)
    assert read["latent"].dtype == torch.bfloat16
    assert torch.equal(read["latent"], torch.from_numpy(VALUES).to(torch.bfloat16))
    assert {name: read[name] for name in ("frame_ids", "text", "fps")} == {
        "frame_ids": [0, 3, 6],
        "text": "öffne",
        "fps": 5,
    }


def test_equal_values_give_equal_bytes_under_any_name(tmp_path: Path) -> None:
    for name in ("a.pth", "another_name.pt"):
        write_torch(tmp_path / name, _value())
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another_name.pt").read_bytes()


def test_a_tensor_has_its_own_memory() -> None:
    values = VALUES.copy()
    made = tensor(values, "float32")
    values[:] = 0
    assert torch.equal(made, torch.from_numpy(VALUES))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_file_cut_short_is_told(tmp_path: Path, share: float) -> None:
    write_torch(tmp_path / "a.pth", _value())
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ReleaseError, match="cannot be read back"):
        read_torch(tmp_path / "a.pth")


def test_a_changed_number_is_told(tmp_path: Path) -> None:
    write_torch(tmp_path / "a.pth", _value())
    data = (tmp_path / "a.pth").read_bytes()
    at = data.index(torch.from_numpy(VALUES).to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
    (tmp_path / "a.pth").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ReleaseError, match="cannot be read back"):
        read_torch(tmp_path / "a.pth")


class _Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("canary"),))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(_Canary(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(_Canary()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ReleaseError, match="cannot be read back"):
            read_torch(tmp_path / name)
    assert not (tmp_path / "canary").exists()
