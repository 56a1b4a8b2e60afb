"""What torch's description of a divided checkpoint, a pickle, may hold: nothing else of it is made."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import StorageMeta


class ShardReader(dcp.FileSystemReader):
    """The reader of torch, whose description of a checkpoint is a pickle: here one that makes nothing but that."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        plain = module.startswith("torch.distributed.checkpoint.") and name in _METADATA
        if plain or (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no checkpoint")


#: What torch's description of a checkpoint is made of.
_METADATA = frozenset(
    *(
        (
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
        )
        + ("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING", "_StorageInfo"),
    )
)
_PLAIN = frozenset(
    {
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
        *(("torch", name) for name in ("float64", "float32", "float16", "bfloat16", "bool")),
        *(("torch", f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    }
)
