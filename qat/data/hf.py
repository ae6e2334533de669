"""Datasets of the Hugging Face hub, and folders that `datasets` reads or has saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qat.data.document import SPLITS, Document, Split
from qat.data.rows import to_document
from qat.data.split import HoldOut, check_split
from qat.errors import InputError, nearest

Dataset = Any  # datasets.Dataset; the library takes a second to import, so it is imported where it is used


class HuggingFace:
    """Rows with a text or a chat from ``datasets``; blank texts are skipped. No dataset's code is run.

    Args:
        path: id on the hub, a folder of data files, or a folder written by ``save_to_disk`` (one that holds a
            single dataset counts as having the split ``train`` only).
        name: configuration of the dataset, for example ``wikitext-2-raw-v1``.
        splits: our split -> the dataset's split, or None where it has none. A slice such as ``train[:1000]``
            works unless the folder was written by ``save_to_disk``. Default: the same names.
        validation_share: where ``splits["validation"]`` is None, the share of the training rows held out for
            it.
        test_share: where ``splits["test"]`` is None, the share of the training rows held out for it.
        text_key: column of a text.
        messages_key: column of a chat; where a row has both, the chat counts.
        add_eos: whether the EOS token ends each text; None: where the tokenizer adds no special token itself.

    Raises:
        InputError: if ``splits`` has a key that is not one of ours, or a share is out of range.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        splits: dict[str, str | None] | None = None,
        validation_share: float = 0.0,
        test_share: float = 0.0,
        text_key: str = "text",
        messages_key: str = "messages",
        add_eos: bool | None = None,
    ) -> None:
        local = Path(path).expanduser()
        self.path = str(local) if local.exists() else path
        self.name = name
        self.splits = {split: split for split in SPLITS} if splits is None else dict(splits)
        for split in self.splits:
            check_split(split)
        self.text_key = text_key
        self.messages_key = messages_key
        self.add_eos = add_eos
        given = [split for split in SPLITS if self.splits.get(split) is not None]
        self.hold_out = HoldOut(given, validation_share, test_share, option="data.splits")
        self._loaded: dict[str, Dataset] = {}

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the rows of ``split`` in the dataset's order.

        Raises:
            InputError: if the dataset, the split or the column does not exist or cannot be reached, or if it
                is empty.
        """
        return self.hold_out.not_empty(split, self._documents(split, self._dataset(split)))

    def fingerprint(self, split: Split) -> str:
        """SHA-256 of the dataset's own fingerprint and the options."""
        decides = [
            self._dataset(split)._fingerprint,  # datasets has no public name for it
            self.text_key,
            self.messages_key,
            self.add_eos,
            self.hold_out.options(split),
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Where the dataset is, its rows a split, and the options."""
        given = [split for split in SPLITS if split in self.hold_out.given]
        return {
            "source": type(self).__name__,
            "path": self.path,
            "name": self.name,
            "splits": self.splits,
            "rows": {split: len(self._dataset(split)) for split in given},
            "corpus_sha256": hashlib.sha256("".join(map(self.fingerprint, given)).encode()).hexdigest(),
            "shares": self.hold_out.shares,
            "text_key": self.text_key,
            "messages_key": self.messages_key,
            "add_eos": self.add_eos,
        }

    def _documents(self, split: Split, dataset: Dataset) -> Iterator[Document]:
        theirs = self.splits[self.hold_out.origin(split)]
        for number, row in enumerate(dataset):
            name = f"{self.path} ({theirs}, row {number})"
            document = to_document(row, self.text_key, self.messages_key, name, self.add_eos)
            if document and self.hold_out.keeps(split, document.content):
                yield document

    def _dataset(self, split: Split) -> Dataset:
        """The dataset that holds the rows of ``split``; loaded once."""
        theirs = self.splits[self.hold_out.origin(split)]
        assert theirs is not None  # origin() names only splits that were given
        if theirs not in self._loaded:
            self._loaded[theirs] = self._load(theirs)
        return self._loaded[theirs]

    def _load(self, theirs: str) -> Dataset:
        available = self._open()
        name, bracket, _ = theirs.partition("[")
        if name not in available:
            raise InputError(
                f"dataset '{self.path}' has no split '{name}', only {', '.join(available)}"
                f"{nearest(name, available)}; set data.splits"
            )
        if bracket and _is_saved(Path(self.path)):
            raise InputError(f"'{theirs}': a folder that save_to_disk wrote cannot be sliced; use '{name}'")
        return self._open(split=theirs) if bracket else available[name]

    def _open(self, **options: str) -> Any:
        """All splits by name, or the one named by ``split=``; InputError if the library cannot."""
        import datasets

        try:
            if not _is_saved(Path(self.path)):
                return datasets.load_dataset(self.path, self.name, **options)
            saved = datasets.load_from_disk(self.path)
            return saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        except ConnectionError as error:
            raise InputError(
                f"dataset '{self.path}' cannot be reached: {_one_line(error)}; "
                "check the network, or give a folder that holds it"
            ) from error
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"dataset '{self.path}' cannot be loaded: {_one_line(error)}") from error


def _is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
