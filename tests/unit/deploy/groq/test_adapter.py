from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
from support import random_llama

from qat.deploy.groq.adapter import ARCHIVE, CONFIG, WEIGHTS, pack, read, to_float16
from qat.errors import InputError


def test_the_zip_has_exactly_two_files_at_its_root(adapter: Callable[..., Path]) -> None:
    folder = adapter()
    assert (folder / "README.md").is_file()  # which peft writes as well
    with zipfile.ZipFile(io.BytesIO(pack(read(folder)))) as archive:
        assert sorted(archive.namelist()) == [CONFIG, WEIGHTS]
        assert json.loads(archive.read(CONFIG)) == json.loads((folder / CONFIG).read_text())
        packed = safetensors.torch.load(archive.read(WEIGHTS))
    written = safetensors.torch.load_file(folder / WEIGHTS)
    assert packed.keys() == written.keys()
    for name, tensor in written.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(packed[name], tensor.to(torch.float16))


def test_the_same_adapter_makes_the_same_bytes(adapter: Callable[..., Path], tmp_path: Path) -> None:
    folder = adapter()
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()), sort_keys=False, indent=1))
    assert pack(read(folder)) == pack(read(copied))


def test_peft_loads_what_was_packed(adapter: Callable[..., Path], tmp_path: Path) -> None:
    folder = adapter()
    (tmp_path / ARCHIVE).write_bytes(pack(read(folder)))
    zipfile.ZipFile(tmp_path / ARCHIVE).extractall(tmp_path / "again")
    tokens = torch.tensor([[1, 2, 3]])
    logits = [
        peft.PeftModel.from_pretrained(random_llama(), place)(tokens).logits for place in (folder, tmp_path / "again")
    ]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=0)


def test_a_zip_is_read_like_its_folder(adapter: Callable[..., Path], tmp_path: Path) -> None:
    folder = adapter()
    (tmp_path / ARCHIVE).write_bytes(pack(read(folder)))
    assert pack(read(tmp_path)) == pack(read(tmp_path / ARCHIVE)) == pack(read(folder))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.tensor([1.0, 65520.0]), "does not hold a (up to 65520)"),
        (torch.tensor([1.0, float("inf")]), "does not hold a (not finite)"),
        (torch.tensor([1.0, float("nan")]), "does not hold a (not finite)"),
        (torch.tensor([1, 2]), "does not hold a (int64, not a floating type)"),
    ],
)
def test_what_float16_does_not_hold_is_refused_by_name(values: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError) as error:
        to_float16({"a": values, "b": torch.ones(1)}, exact=False)
    assert said in str(error.value)


def test_the_largest_float16_is_taken() -> None:
    assert to_float16({"a": torch.tensor([65504.0, -65504.0])}, exact=True)["a"].tolist() == [65504.0, -65504.0]


def test_exact_refuses_what_rounding_changes() -> None:
    third = {"a": torch.tensor([1 / 3])}
    assert to_float16(third, exact=False)["a"].item() == 0.333251953125  # 0x3555
    with pytest.raises(InputError, match=r"a \(changed by rounding\).*target.exact=false"):
        to_float16(third, exact=True)


def test_more_than_three_are_counted() -> None:
    with pytest.raises(InputError, match="c .* and 2 more; "):
        to_float16({name: torch.tensor([1e6]) for name in "abcde"}, exact=False)


def test_what_is_no_adapter_is_told(adapter: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no LoRA adapter: .*adapter_config.json is not there"):
        read(tmp_path)
    folder = adapter()
    (folder / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is damaged"):
        read(folder)
    (tmp_path / ARCHIVE).write_bytes(b"no zip")
    with pytest.raises(InputError, match="is damaged"):
        read(tmp_path)
