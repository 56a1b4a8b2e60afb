"""Weights and configurations that claim too much: refused in a sentence before memory or time goes.

Every test runs under a limit of address space far below what the file claims, so that an allocation would be seen.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from video_ssl.embed.features import FeatureError, open_features
from video_ssl.limits import check_sizes
from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.encoders import EncoderError, load_encoder, save_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError, read_state
from video_ssl.pretrain.checkpoint_folders import Checkpoint
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop.checkpoints import load_state
from video_ssl.recipes import ConfigError

GIB = 2**30


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """4 GiB more than the process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def archive(path: Path, content: Any, **more: Any) -> Path:
    """A checkpoint of torch."""
    torch.save(content, path, **more)
    return path


def repacked(path: Path, kind: int, grow: int = 0) -> Path:
    """The same archive with its entries packed; `grow` zeros are added to its largest."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    largest = max(entries, key=lambda name: len(entries[name]))
    with zipfile.ZipFile(path, "w", kind) as new:
        for name, content in entries.items():
            with new.open(name, "w", force_zip64=True) as entry:
                entry.write(content)
                for _ in range(grow if name == largest else 0):
                    entry.write(bytes(2**20))
    return path


@pytest.mark.parametrize("grow", [0, 64])
def test_a_packed_archive_is_refused(tmp_path: Path, grow: int) -> None:
    path = repacked(
        archive(tmp_path / "a.pth", {"model": {"w": torch.zeros(5000)}}), zipfile.ZIP_DEFLATED, grow
    )
    with pytest.raises(WeightsError, match=r"is compressed \([\d,]+ bytes from [\d,]+\)"):
        read_state(path)
    (tmp_path / "state.pt").write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="is compressed"):
        load_state(Checkpoint(1, tmp_path))


def test_an_archive_that_names_the_same_bytes_again_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", {"model": {"w": torch.zeros(5000)}})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")  # the list of contents: claim more for its first entry
    struct.pack_into("<II", content, at + 20, 2**31, 2**31)
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsError, match="no PyTorch archive, or a damaged one"):
        read_state(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_tensor_that_repeats_a_number_is_refused(tmp_path: Path, legacy: bool) -> None:
    """Was wrong: 400 bytes of a file became terabytes when somebody copied the tensor."""
    tensor = torch.zeros(1).expand(10**6, 10**6)
    path = archive(
        tmp_path / "a.pth",
        {"model": {"a": {"w": tensor}, "b": torch.ones(2)}},
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match=r"a\.w claims 4,000,000,000,000 bytes and stores 4"):
        read_state(path)


def test_a_pickle_that_claims_a_large_storage_ends_in_a_sentence(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.pth", {"model": {"w": torch.zeros(7)}}, _use_new_zipfile_serialization=False
    )
    content = path.read_bytes()
    claimed = content.replace(b"K\x07N", b"\x8a\x06\x00\x00\x00\x00\x00\x10N")
    assert claimed != content
    path.write_bytes(claimed)
    with pytest.raises(WeightsError):
        read_state(path)


def deep_pickle() -> bytes:
    return b"\x80\x02" + b"(" * 200_000 + b"."


def nested(depth: int) -> Any:
    content: Any = torch.zeros(1)
    for _ in range(depth):
        content = {"a": content}
    return content


def test_what_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(deep_pickle())
    with pytest.raises(WeightsError):
        read_state(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="nested deeper"):
        read_state(archive(tmp_path / "b.pth", {"model": nested(60)}))


def safetensors(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b'{"a": 1}',
        safetensors(b'{"a":' + b"[" * 100_000),
        safetensors(
            b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', b"1234"
        ),
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e30]}}', b"1234"),
        safetensors(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999]}}', b"1234"
        ),
        safetensors(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"1234"),
        safetensors(b'{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}', b"1234"),
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"1234"),
        safetensors(
            b'{"a":{"dtype":"F32","shape":'
            + b"[" * 200
            + b"1"
            + b"]" * 200
            + b',"data_offsets":[0,4]}}',
            b"1234",
        ),
        safetensors(b'{"a": 3}'),
        safetensors(b"{}"),
        safetensors(b"[1]"),
    ],
)
def test_absurd_headers_of_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError) as told:
        read_state(tmp_path / "a.safetensors")
    assert len(str(told.value)) < 1500
    with pytest.raises(WeightsError):
        convert(tmp_path / "a.safetensors", tmp_path / "out")


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 2**33) + b"{")
        file.truncate(2**33 + 100)  # of holes
    with pytest.raises(WeightsError, match="header of 8,589,934,592 bytes"):
        read_state(tmp_path / "a.safetensors")


def test_an_index_of_brackets(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="no index of split weights"):
        read_state(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("numbers", [[0, 10**7], [0, 1, 3]])
def test_a_block_with_an_absurd_number_builds_no_network(
    tmp_path: Path, numbers: list[int]
) -> None:
    width = 32
    state: dict[str, np.ndarray] = {
        "patch_embed.proj.weight": np.zeros((width, 3, 2, 4, 4), np.float32)
    }
    for n in numbers:
        state[f"blocks.{n}.mlp.fc1.weight"] = np.zeros((64, width), np.float32)
        state[f"blocks.{n}.attn.qkv.weight"] = np.zeros((3 * width, width), np.float32)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"none of number \d|more than any network has"):
        convert(tmp_path / "a.safetensors", tmp_path / "out", num_heads=2, min_share=0.0)


def npz(path: Path, header: dict[str, Any], packed: int = 0) -> Path:
    """An archive with one array whose header says anything, and `packed` MiB of zeros behind it."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
        new.open("features.npy", "w", force_zip64=True) as file,
    ):
        described = {"fortran_order": False, "descr": "<f4", **header}
        np.lib.format.write_array_header_1_0(file, described)
        for _ in range(packed):
            file.write(bytes(2**20))
    return path


def test_an_archive_of_arrays_that_claims_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: numpy takes the memory that a header claims before it reads a number."""
    with pytest.raises(
        FeatureError, match=r"features.npy claims 4,000,000,000,000 bytes and has 1,048,\d+"
    ):
        open_features(npz(tmp_path / "a.npz", {"shape": (10**6, 10**6)}, packed=1))
    memory = SimpleNamespace(available=2**24)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    with pytest.raises(
        FeatureError, match=r"its arrays take 33,554,\d+ bytes, this machine has 16,777,216 left"
    ):
        open_features(npz(tmp_path / "b.npz", {"shape": (2**11, 2**12)}, packed=32))


# Configurations


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = ViTConfig(
        preset=None,
        embed_dim=16,
        depth=1,
        num_heads=1,
        patch_size=8,
        image_size=16,
        num_frames=2,
        positions="sincos_1d",
    )
    return save_encoder(
        tmp_path / "e",
        VideoViT(config),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=2, size=16),
        source={},
    )


ABSURD = [
    {"embed_dim": 2**31, "num_heads": 1},
    {"depth": 10**7},
    {"depth": 1000, "embed_dim": 2**14},
    {"num_heads": 2**31},
    {"image_size": 2**31},
    {"image_size": 2**14, "patch_size": 1},
    {"num_frames": 2**31},
    {"table_frames": 2**40},
    {"mlp_ratio": 1e30},
    {"mlp_ratio": float("inf")},
    {"mlp_ratio": float("nan")},
    {"depth": -1},
    {"depth": 10**400},
    {"tubelet_size": 2**62},
]


@pytest.mark.parametrize("spec", ["{}", "untrained:{}"])
@pytest.mark.parametrize("changes", ABSURD)
def test_a_configuration_that_claims_too_much_is_refused(
    saved: Path, changes: dict[str, Any], spec: str
) -> None:
    """Was wrong: depth=10^7 built blocks until the memory was full."""
    content = json.loads((saved / "config.json").read_text())
    content.pop("checksum")
    content["config"] |= changes
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(EncoderError) as told:
        load_encoder(spec.format(saved))
    assert len(str(told.value)) < 1500


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2**31},
        {"num_frames": 10**9},
        {"fps": float("inf")},
        {"fps": float("nan")},
        {"mean": [float("nan"), 0, 0]},
        {"std": [float("inf"), 1, 1]},
        {"std": [float("nan"), 1, 1]},
    ],
)
def test_a_preprocessing_of_no_numbers_is_refused(saved: Path, changes: dict[str, Any]) -> None:
    content = json.loads((saved / "config.json").read_text())
    content.pop("checksum")
    content["preprocess"] |= changes
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(EncoderError):
        load_encoder(saved)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "{" + " " * 2**23 + "}", "1" * 10_000, "\x00"]
)
def test_a_configuration_without_end(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(EncoderError, match="is not readable as JSON"):
        load_encoder(saved)


@pytest.mark.parametrize(
    "override",
    [
        "objective.encoder.depth=10000000",
        "objective.encoder.embed_dim=2147483648",
        "objective.decoder.depth=1e7",
        "objective.decoder.depth=10000000",
        "objective.clip.num_frames=1000000000",
        "objective.crop.size=1073741824",
        "loader.num_workers=100000000",
    ],
)
def test_a_recipe_that_claims_too_much_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_pretrain_recipe("mae/demo", [override])


def test_what_people_train_is_allowed() -> None:
    check_sizes(ViTConfig(preset="g", patch_size=14, image_size=448, num_frames=64))
    check_sizes(
        ViTConfig(
            preset=None, embed_dim=6144, depth=48, num_heads=48, image_size=224, num_frames=32
        )
    )
    check_sizes(ImageViTConfig(preset="H", patch_size=14, image_size=448))
    check_sizes(DecoderConfig(embed_dim=512, depth=8, num_heads=8))


@pytest.mark.parametrize("place", [0.35, 0.5, 0.65])
def test_a_flipped_bit_in_a_published_archive_is_found(tmp_path: Path, place: float) -> None:
    """Was wrong: PyTorch writes checksums into its archives and does not read them."""
    path = archive(
        tmp_path / "a.pth", {"model": {"w": torch.arange(5000.0), "v": torch.ones(5000)}}
    )
    assert read_state(path)["w"][3] == 3
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsError, match=r"is damaged: .*/data/. is not what was written"):
        read_state(path)


def test_an_archive_written_without_checksums_still_opens(tmp_path: Path, caplog: Any) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = archive(tmp_path / "a.pth", {"model": {"w": torch.arange(5000.0)}})
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_state(path)["w"][7] == 7


def test_an_inert_file_of_any_kind_of_nonsense(tmp_path: Path) -> None:
    """Seeded mutations of a good checkpoint: either it loads, or one sentence."""
    good = archive(
        tmp_path / "good.pth", {"model": {"w": torch.arange(50.0), "n": {"b": torch.ones(3)}}}
    ).read_bytes()
    old = io.BytesIO()
    torch.save({"w": torch.arange(50.0)}, old, _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    path = tmp_path / "bad.pth"
    for content in (good, old.getvalue()):
        for _ in range(150):
            data = bytearray(content)
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                data[place] = rng.integers(0, 256)
            path.write_bytes(
                bytes(data[: len(data) if rng.random() < 0.7 else int(rng.integers(1, len(data)))])
            )
            with contextlib.suppress(WeightsError):
                read_state(path)
